"""DuckDB with the lake attached: how it is opened, prepared, read and reopened.

Every instance of DuckDB here is in memory and holds nothing; the lake is Parquet files and a catalog in PostgreSQL,
so an instance that has seen an error is thrown away and replaced.
"""

import importlib.util
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import structlog

from pacs_core.errors import IndexUnavailable
from pacs_core.index.migrations import LAKE_SCHEMA, guard_lake, is_prepared, lock_preparation, migrate
from pacs_core.index.postgres import CatalogURL, Database, Session
from pacs_core.index.schema import COLUMNS, add_column, create_table
from pacs_core.index.spilling import spill_root
from pacs_core.model import Level

log = structlog.get_logger(__name__)

_BATCH = 500  # rows fetched at a time
_PREPARATION_PATIENCE = 5.0  # seconds; making the tables takes one
_LOOK_AGAIN = 0.05
_MIGRATION_PATIENCE = 3600.0  # an index on the keys of a large archive takes minutes
_OPENING_PATIENCE = 20  # seconds; nothing bounds the first answer of a server that has accepted the connection

# Rows of one insert that go into the catalog instead of a Parquet file of their own. Measured: a file costs 20 ms
# however many rows it has, an inlined row 0.6 ms.
_INLINED_ROWS = 50

_REMOTE_EXTENSIONS = {"s3": ("httpfs", "aws"), "az": ("azure",)}


@dataclass(frozen=True, slots=True)
class Engine:
    """How much of the machine one instance of DuckDB may use."""

    threads: int = 2
    memory_limit: str = "1GB"


def open_duckdb(engine: Engine) -> duckdb.DuckDBPyConnection:
    """An empty instance in memory that can attach the lake. IndexUnavailable if an extension, or room to spill to, is missing."""
    try:
        spill = spill_root(os.getpid()) / uuid.uuid4().hex
    except OSError as exc:
        raise IndexUnavailable(f"there is no temporary directory for DuckDB: {exc.strerror}") from exc
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": engine.threads,
            "memory_limit": engine.memory_limit,
            "temp_directory": str(spill),
            "autoinstall_known_extensions": False,
            "python_enable_replacements": False,
        },
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")  # it would be printed into what `pacs sql` and flows say
        connection.execute("SET parquet_metadata_cache = true")
        for name in ("ducklake", "postgres_scanner"):
            load_extension(connection, name)
    except duckdb.Error as exc:
        connection.close()
        raise IndexUnavailable("DuckDB's extensions ducklake and postgres_scanner cannot be loaded") from exc
    return connection


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension from its wheel; where there is none, DuckDB downloads it once."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is not None and spec.submodule_search_locations:
        root = Path(spec.submodule_search_locations[0])
        file = root / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if file.is_file():
            connection.execute(f"LOAD {literal(str(file))}")
            return
    connection.execute(f"INSTALL {name}")
    connection.execute(f"LOAD {name}")


def literal(text: str) -> str:
    """A SQL string literal, for the statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def attach_lake(
    connection: duckdb.DuckDBPyConnection, catalog: CatalogURL, data_path: str, *, application_name: str, read_only: bool
) -> None:
    """Attach the lake as `lake`. Raises duckdb.Error.

    Paths in the catalog are relative to the data path, so that a home can be moved: the path given here counts, not
    the one that the lake was made with.
    """
    if "://" in data_path:
        _enable_remote(connection, data_path)
    attach_secret(connection, catalog)
    source = literal("ducklake:postgres:" + catalog.libpq(application_name=application_name, read_only=read_only))
    options = [
        f"DATA_PATH {literal(data_path)}",
        "OVERRIDE_DATA_PATH true",
        f"METADATA_SCHEMA {literal(LAKE_SCHEMA)}",
        "META_SECRET 'pacs_catalog'",
        *(["READ_ONLY"] if read_only else []),
    ]
    connection.execute(f"ATTACH {source} AS lake ({', '.join(options)})")


def open_to_read(engine: Engine, catalog: CatalogURL, data_path: str, *, application_name: str) -> duckdb.DuckDBPyConnection:
    """A new instance with the lake attached as `lake`, read-only. Raises duckdb.Error; IndexUnavailable as `await_prepared`."""
    connection = open_duckdb(engine)
    try:
        await_prepared(catalog)
        attach_lake(connection, catalog, data_path, application_name=application_name, read_only=True)
    except (duckdb.Error, IndexUnavailable):
        connection.close()
        raise
    return connection


def await_prepared(catalog: CatalogURL) -> None:
    """Return once the index has been prepared: a first start accepts users while its committer still makes the tables.

    IndexUnavailable if PostgreSQL cannot be reached, or nobody has prepared the index for _PREPARATION_PATIENCE.
    """
    deadline = time.monotonic() + _PREPARATION_PATIENCE
    session = Session(catalog, application_name="pacs-await")
    try:
        while not is_prepared(session):
            if time.monotonic() > deadline:
                raise IndexUnavailable("the index has not been prepared: start the archive, with `pacs up` or `pacs listen`")
            time.sleep(_LOOK_AGAIN)
    finally:
        session.close()


def attach_secret(connection: duckdb.DuckDBPyConnection, catalog: CatalogURL) -> None:
    """The password as a secret of this instance: unlike a connection string, DuckDB never shows it."""
    connection.execute(
        f"CREATE OR REPLACE SECRET pacs_catalog (TYPE postgres, USER {literal(catalog.user)}, PASSWORD {literal(catalog.password)})"
    )


def _enable_remote(connection: duckdb.DuckDBPyConnection, data_path: str) -> None:
    """Credentials come from the environment, as the cloud's own tools find them."""
    scheme = data_path.split("://", 1)[0]
    for name in _REMOTE_EXTENSIONS.get(scheme, ()):
        load_extension(connection, name)
    if scheme in _REMOTE_EXTENSIONS:
        kind = "s3" if scheme == "s3" else "azure"
        connection.execute(f"CREATE OR REPLACE SECRET pacs_data (TYPE {kind}, PROVIDER credential_chain)")


def prepare_index(catalog_url: str, data_path: str) -> None:
    """Make the catalog's tables and the lake, or bring them up to date. Idempotent; safe from several processes.

    The database must exist. IndexUnavailable where PostgreSQL or the data path does not answer.
    """
    database = Database(catalog_url, timeout=_MIGRATION_PATIENCE)
    try:
        with database.transaction() as session:
            lock_preparation(session)
            migrate(session)
            _prepare_lake(CatalogURL.parse(catalog_url), data_path)
            guard_lake(session)
    finally:
        database.close()


def _prepare_lake(catalog: CatalogURL, data_path: str) -> None:
    connection = open_duckdb(Engine())
    try:
        if "://" not in data_path:
            Path(data_path).mkdir(parents=True, exist_ok=True)
        attach_lake(connection, catalog, data_path, application_name="pacs-prepare", read_only=False)
        _set_option(connection, "data_inlining_row_limit", str(_INLINED_ROWS))
        for level in Level:
            _prepare_table(connection, level)
    except (duckdb.Error, OSError) as exc:
        raise IndexUnavailable("the index cannot be prepared") from exc
    finally:
        connection.close()


def _set_option(connection: duckdb.DuckDBPyConnection, name: str, value: str) -> None:
    present = connection.execute("SELECT value FROM ducklake_options('lake') WHERE option_name = ? AND scope = 'GLOBAL'", [name]).fetchone()
    if present is None or present[0] != value:
        connection.execute(f"CALL lake.set_option({literal(name)}, {literal(value)})")


def _prepare_table(connection: duckdb.DuckDBPyConnection, level: Level) -> None:
    """Create the table, or add the columns of attributes that have been indexed since it was made."""
    connection.execute(create_table(level))
    found = connection.execute("SELECT column_name FROM duckdb_columns() WHERE database_name = 'lake' AND table_name = ?", [level.table])
    present = {row[0] for row in found.fetchall()}
    for column in COLUMNS[level]:
        if column.name not in present:
            connection.execute(add_column(level, column))


class LakeReader:
    """Runs queries on the lake, read-only. Thread-safe; each query sees one snapshot.

    Survives the death of PostgreSQL: a query that fails is tried once more on a fresh instance of DuckDB, then
    IndexUnavailable; the next query tries again.
    """

    def __init__(self, catalog_url: str, data_path: str, *, engine: Engine | None = None) -> None:
        """Opens at the first query. ConfigurationError for a wrong URL."""
        self._catalog = CatalogURL.parse(catalog_url)
        self._data_path = data_path
        self._engine = engine or Engine()
        self._lock = threading.Lock()  # for who is the instance, never held for long
        self._opening = threading.Lock()
        self._instance: duckdb.DuckDBPyConnection | None = None
        self._is_prepared = False

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows, streamed; closing the iterator cancels the query."""
        cursor, batch = self._start(sql, parameters)
        try:
            while batch:
                yield from batch
                batch = cursor.fetchmany(_BATCH)
        except duckdb.Error as exc:  # not as the cause: its message quotes the statement, and with it patients
            raise IndexUnavailable(f"the index broke off a query ({type(exc).__name__})") from None
        finally:
            cursor.close()

    def await_prepared(self) -> None:
        """Return once the index has been prepared; see `await_prepared`. Asks only until it has been once."""
        if not self._is_prepared:
            await_prepared(self._catalog)
            self._is_prepared = True

    def close(self) -> None:
        """Release the instance. A later query opens a new one."""
        with self._lock:
            instance, self._instance = self._instance, None
        if instance is not None:
            instance.close()

    def _start(self, sql: str, parameters: Sequence[object]) -> tuple[duckdb.DuckDBPyConnection, list[tuple[Any, ...]]]:
        """Run the query as far as its first rows: until then it can be repeated unnoticed."""
        for attempt in (1, 2):
            instance = None
            try:
                instance, cursor = self._cursor()
                cursor.execute(sql, parameters)
                return cursor, cursor.fetchmany(_BATCH)
            except duckdb.Error as exc:
                self._discard(instance)
                if attempt == 2:
                    raise IndexUnavailable(f"the index does not answer ({type(exc).__name__})") from None
                log.warning("index_reopened")
        raise AssertionError

    def _cursor(self) -> tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection]:
        instance = self._instance or self._opened()
        return instance, instance.cursor()

    def _opened(self) -> duckdb.DuckDBPyConnection:
        """The instance, once one thread has opened it: a server that hangs must not take every other thread with it."""
        if not self._opening.acquire(timeout=_OPENING_PATIENCE):
            raise IndexUnavailable(f"PostgreSQL has not answered for {_OPENING_PATIENCE} s")
        try:
            instance = self._instance or self._open()
            with self._lock:
                self._instance = instance
        finally:
            self._opening.release()
        return instance

    def _open(self) -> duckdb.DuckDBPyConnection:
        return open_to_read(self._engine, self._catalog, self._data_path, application_name="pacs-read")

    def _discard(self, broken: duckdb.DuckDBPyConnection | None) -> None:
        """Forget an instance; queries of other threads that still run on it keep it alive."""
        with self._lock:
            if broken is not None and self._instance is broken:
                self._instance = None
