"""PostgreSQL: the URL, pooled connections and the translation of the driver's errors."""

import os
import queue
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from gzip import GzipFile
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit

from pg8000.exceptions import Error as DriverError
from pg8000.native import Connection

from pacs_core.errors import ConfigurationError, IndexUnavailable, NotIndexable, PacsError

Row = list[Any]

_PARAMETERS = frozenset({"host", "sslmode"})
_SSL_MODES = ("disable", "prefer", "require", "verify-full")
_CONNECT_TIMEOUT = 5  # seconds
# Seconds without progress after which a peer that vanished silently counts as dead.
_DEAD_AFTER = 20
_LOCK_TIMEOUT = 20_000  # milliseconds
# The journal forgets what PostgreSQL has committed, so a server that is set up to lose commits must not.
_SESSION_SETTINGS = {"synchronous_commit": "on", "lock_timeout": str(_LOCK_TIMEOUT)}

# SQLSTATE classes of what no repetition mends: data exception, integrity violation, program limit exceeded.
_UNFIT = ("22", "23", "54")
_UNIQUE_VIOLATION = "23505"  # somebody was faster; repeated, it is seen


@dataclass(frozen=True, slots=True)
class CatalogURL:
    """A PostgreSQL database.

    Attributes:
        host: a host name, or an absolute path: the directory of the server's Unix socket.
        sslmode: as libpq has it; "prefer" (the default) means none over a Unix socket.
    """

    host: str
    port: int
    database: str
    user: str
    password: str = field(default="", repr=False)
    sslmode: str = "prefer"

    @classmethod
    def parse(cls, url: str) -> "CatalogURL":
        """`postgresql://user:password@host:port/database`, or `…@/database?host=/directory/of/the/socket`.

        ConfigurationError for anything else; it never repeats the password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 5432
            parameters = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        except ValueError as exc:
            raise ConfigurationError("catalog_url is not a URL of the form postgresql://user:password@host:port/database") from exc
        if parts.scheme not in {"postgresql", "postgres"} or not parts.path.strip("/"):
            raise ConfigurationError("catalog_url must have the form postgresql://user:password@host:port/database")
        if unknown := parameters.keys() - _PARAMETERS:
            raise ConfigurationError(f"catalog_url: unknown parameter {', '.join(sorted(unknown))}; allowed are host and sslmode")
        sslmode = parameters.get("sslmode", "prefer")
        if sslmode not in _SSL_MODES:
            raise ConfigurationError(f"catalog_url: sslmode must be one of {', '.join(_SSL_MODES)}")
        return cls(
            host=parameters.get("host") or unquote(parts.hostname or "") or "127.0.0.1",
            port=port,
            database=unquote(parts.path.strip("/")),
            user=unquote(parts.username or "postgres"),
            password=unquote(parts.password or ""),
            sslmode=sslmode,
        )

    def libpq(self, *, application_name: str, read_only: bool = False) -> str:
        """The connection string for libpq, without the password: error messages repeat it."""
        parameters = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.database,
            "user": self.user,
            "sslmode": self.sslmode,
            "application_name": application_name,
            "connect_timeout": str(_CONNECT_TIMEOUT),
            "keepalives_idle": str(_DEAD_AFTER),
            "keepalives_interval": "5",
            "tcp_user_timeout": str(_DEAD_AFTER * 1000),
        }
        options = dict(_SESSION_SETTINGS)
        if read_only:
            options["default_transaction_read_only"] = "on"
        parameters["options"] = " ".join(f"-c {name}={value}" for name, value in options.items())
        return " ".join(f"{name}={_quote(value)}" for name, value in parameters.items())


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


class Session:
    """One connection. Not thread-safe. After IndexUnavailable it is only good for `close`."""

    def __init__(self, url: CatalogURL, *, application_name: str, timeout: float = 30) -> None:
        """Connect. `timeout`: seconds for which the server may be silent."""
        sock: socket.socket | None = None
        try:
            sock = _connect(url)
            sock.settimeout(timeout)
            self._connection = Connection(
                url.user,
                host=url.host,
                database=url.database,
                password=url.password or None,
                application_name=application_name,
                ssl_context=_ssl_context(url),
                sock=sock,
            )
        except (DriverError, OSError) as exc:
            if sock is not None:
                sock.close()
            raise IndexUnavailable("PostgreSQL cannot be reached") from exc
        self._socket = sock
        try:
            for name, value in _SESSION_SETTINGS.items():
                self.run(f"SET {name} = '{value}'")
        except PacsError:
            self.close()
            raise

    def run(self, sql: str, **parameters: object) -> Sequence[Row]:
        """One statement, with `:name` for each parameter; the rows it returns. A list of texts needs CAST(:name AS text[]).

        NotIndexable for values that PostgreSQL does not take, IndexUnavailable for everything else. Neither has the
        driver's error as its cause: that quotes values.
        """
        return self._run(sql, {name: _encoded(value) for name, value in parameters.items()})

    def copy(self, sql: str, stream: IO[bytes] | GzipFile) -> None:
        """A COPY from STDIN or to STDOUT, which is the stream. Errors as `run`; an OSError of the stream counts as PostgreSQL's."""
        self._run(sql, {"stream": stream})

    def _run(self, sql: str, parameters: dict[str, Any]) -> Sequence[Row]:
        try:
            return self._connection.run(sql, **parameters) or ()
        except DriverError as exc:
            state = _sqlstate(exc)
            if state.startswith(_UNFIT) and state != _UNIQUE_VIOLATION:
                raise NotIndexable(f"PostgreSQL does not take a value (SQLSTATE {state})") from None
            raise IndexUnavailable(f"PostgreSQL did not complete a statement (SQLSTATE {state or 'unknown'})") from None
        except OSError as exc:
            raise IndexUnavailable("PostgreSQL did not complete a statement") from exc

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end; roll back where the body raises."""
        self.run("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(PacsError):
                self.run("ROLLBACK")
            raise
        self.run("COMMIT")

    def close(self) -> None:
        """Repeatable; never raises."""
        with suppress(DriverError, OSError):
            self._connection.close()
        # After a broken flush the driver's file object keeps the socket open, which then closes only when collected.
        if (descriptor := self._socket.detach()) >= 0:
            os.close(descriptor)


def _encoded(value: object) -> object:
    """A parameter as the driver is to send it. An array it would write itself without quotes, and a text `null` would be none."""
    if not isinstance(value, list):
        return value
    return "{" + ",".join('"' + str(each).replace("\\", "\\\\").replace('"', '\\"') + '"' for each in value) + "}"


def _sqlstate(error: DriverError) -> str:
    """The code of an error of the server; empty for one of the driver's own."""
    fields = error.args[0] if error.args else None
    return str(fields.get("C", "")) if isinstance(fields, dict) else ""


def _connect(url: CatalogURL) -> socket.socket:
    if not url.host.startswith("/"):
        return socket.create_connection((url.host, url.port), timeout=_CONNECT_TIMEOUT)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_CONNECT_TIMEOUT)
        sock.connect(f"{url.host}/.s.PGSQL.{url.port}")
    except OSError:
        sock.close()
        raise
    return sock


def _ssl_context(url: CatalogURL) -> ssl.SSLContext | bool | None:
    if url.host.startswith("/") or url.sslmode == "disable":
        return False
    if url.sslmode == "prefer":
        return None
    context = ssl.create_default_context()
    if url.sslmode == "require":  # encrypted, whoever answers: what libpq means by it
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Database:
    """The operational side of the catalog. Thread-safe: a session per user at a time, kept for the next one."""

    def __init__(self, url: str, *, timeout: float = 30) -> None:
        """Does not connect yet. ConfigurationError for a wrong URL."""
        self._url = CatalogURL.parse(url)
        self._timeout = timeout
        self._idle: queue.LifoQueue[Session] = queue.LifoQueue(maxsize=4)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session in a transaction that commits at the end and rolls back where the body raises."""
        session = self._begin()
        try:
            yield session
            session.run("COMMIT")
        except BaseException:
            session.close()
            raise
        self._keep(session)

    def close(self) -> None:
        """Close the idle sessions."""
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def _begin(self) -> Session:
        """An idle session may have died with the server; BEGIN finds out, and nothing is lost by trying the next."""
        while True:
            try:
                session = self._idle.get_nowait()
            except queue.Empty:
                break
            try:
                session.run("BEGIN")
            except PacsError:
                session.close()
            else:
                return session
        session = Session(self._url, application_name="pacs", timeout=self._timeout)
        try:
            session.run("BEGIN")
        except PacsError:
            session.close()
            raise
        return session

    def _keep(self, session: Session) -> None:
        try:
            self._idle.put_nowait(session)
        except queue.Full:
            session.close()
