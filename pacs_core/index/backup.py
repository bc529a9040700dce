"""The whole index as files, all of one moment, and back.

A dump is one Parquet file for each table of the lake, as of one snapshot, and one CSV file for each operational table, as of one
transaction. Both are begun while nobody else can commit, so that keys and rows agree; they are then written while the archive goes on.
"""

import gzip
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb

from pacs_core.errors import ChecksumMismatch, IndexUnavailable
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.lake import Engine, literal, open_to_read
from pacs_core.index.postgres import CatalogURL, Row, Session
from pacs_core.model import Level

_PATIENCE = 3600.0  # seconds in which PostgreSQL answers while a table of a large archive is read or written
_LAKE, _OPERATIONAL = "lake", "pacs"

# Which step has been applied and who commits is true of an index, not of what is in it.
_OF_THE_INDEX = frozenset({"committer", "migration"})
# Written as soon as an archive runs; an index that has no more than these is empty.
_TRANSIENT = frozenset({"flow_run", "study_access", "plan", "forward_rule", "prefetch_start"})

_TABLES = """
    SELECT table_name FROM information_schema.tables WHERE table_schema = 'pacs' AND table_type = 'BASE TABLE' ORDER BY table_name
"""
_COLUMNS = """
    SELECT column_name, is_identity = 'YES' FROM information_schema.columns
    WHERE table_schema = 'pacs' AND table_name = :table AND is_generated = 'NEVER' ORDER BY ordinal_position
"""
_REFERENCES = """
    SELECT DISTINCT child.relname, parent.relname FROM pg_constraint JOIN pg_class child ON child.oid = conrelid
    JOIN pg_class parent ON parent.oid = confrelid WHERE contype = 'f' AND connamespace = 'pacs'::regnamespace AND conrelid <> confrelid
"""


@dataclass(frozen=True, slots=True)
class DumpedTable:
    """A table's file: `name` below the directory of the dump."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class Dump:
    """What was written, and the snapshot of the lake that it is."""

    snapshot: int
    tables: tuple[DumpedTable, ...]


class IndexBackup:
    """Dumps an index and loads one. Thread-safe.

    Args:
        writer: of the same index; lends its turn among the committers.
    """

    def __init__(self, catalog_url: str, data_path: str, writer: LakeIndexWriter, *, engine: Engine | None = None) -> None:
        self._catalog = CatalogURL.parse(catalog_url)
        self._data_path = data_path
        self._writer = writer
        self._engine = engine or Engine()

    def dump(self, directory: Path, *, written: Callable[[str], None] = lambda _: None) -> Dump:
        """Write every table to a directory that exists; told of each file. Not synced. IndexUnavailable; OSError for the directory."""
        with closing(Session(self._catalog, application_name="pacs-backup", timeout=_PATIENCE)) as session:
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            with self._writer.committing() as (_, lake):
                snapshot = _snapshot(lake)
                tables = [name for (name,) in session.run(_TABLES)]  # the first statement: from here on, the transaction's moment
            dumped = [*self._dump_lake(directory, snapshot, written)]
            for table in tables:
                name = f"{_OPERATIONAL}.{table}.csv.gz"
                dumped.append(DumpedTable(name, _copy_out(session, table, directory / name)))
                written(name)
            session.run("COMMIT")
        return Dump(snapshot, tuple(dumped))

    def is_empty(self) -> bool:
        """Whether there is nothing that a load would overwrite."""
        with self._writer.committing() as (session, lake):
            tables = [name for (name,) in session.run(_TABLES) if name not in _OF_THE_INDEX | _TRANSIENT]
            if any(session.run(f'SELECT 1 FROM pacs."{name}" LIMIT 1') for name in tables):  # noqa: S608 names from the catalog
                return False
            return not any(lake.execute(f"SELECT 1 FROM lake.{level.table} LIMIT 1").fetchone() for level in Level)  # noqa: S608 constants

    def load(self, directory: Path, rows: Mapping[str, int], *, loaded: Callable[[str], None] = lambda _: None) -> None:
        """Make the index what a dump says, in place of what it is; told of each file. It must have been prepared.

        Nobody commits meanwhile. Killed in the middle it is to be repeated: the operational tables come first and whole, then the lake.
        ChecksumMismatch, with nothing changed in that part, if a table turns out to have another number of rows than `rows` says.
        """
        with self._writer.committing() as (session, lake):
            with closing(Session(self._catalog, application_name="pacs-restore", timeout=_PATIENCE)) as loading:
                tables = _in_order([name for (name,) in loading.run(_TABLES) if name not in _OF_THE_INDEX], loading.run(_REFERENCES))
                with loading.transaction():
                    loading.run("TRUNCATE " + ", ".join(f'pacs."{table}"' for table in tables))
                    for table in tables:
                        name = f"{_OPERATIONAL}.{table}.csv.gz"
                        if name in rows:  # a table that the version which made the dump did not have stays empty
                            _check(name, _copy_in(loading, table, directory / name), rows)
                            loaded(name)
            self._load_lake(lake, directory, rows, loaded)
            for table in tables:
                session.run(f'ANALYZE pacs."{table}"')

    def close(self) -> None:
        """Release everything."""
        self._writer.close()

    def _dump_lake(self, directory: Path, snapshot: int, written: Callable[[str], None]) -> Sequence[DumpedTable]:
        connection = None
        try:
            connection = open_to_read(self._engine, self._catalog, self._data_path, application_name="pacs-backup")
            dumped = []
            for level in Level:
                name = f"{_LAKE}.{level.table}.parquet"
                target = literal(str(directory / name))
                result = connection.execute(
                    f"COPY (SELECT * FROM lake.{level.table} AT (VERSION => {snapshot:d})) TO {target} (FORMAT parquet, COMPRESSION zstd)"  # noqa: S608 constants
                ).fetchone()
                dumped.append(DumpedTable(name, result[0] if result else 0))
                written(name)
        except duckdb.Error as exc:  # not as the cause: its message may quote a row
            raise IndexUnavailable(f"the index did not complete a backup ({type(exc).__name__})") from None
        finally:
            if connection is not None:
                connection.close()
        return dumped

    def _load_lake(self, lake: duckdb.DuckDBPyConnection, directory: Path, rows: Mapping[str, int], loaded: Callable[[str], None]) -> None:
        with self._writer.files.transaction(lake):
            for level in Level:
                name = f"{_LAKE}.{level.table}.parquet"
                lake.execute(f"DELETE FROM lake.{level.table}")  # noqa: S608 a constant
                source = literal(str(directory / name))
                result = lake.execute(f"INSERT INTO lake.{level.table} BY NAME SELECT * FROM read_parquet({source})").fetchone()  # noqa: S608 constants
                _check(name, result[0] if result else 0, rows)
                loaded(name)


def _snapshot(lake: duckdb.DuckDBPyConnection) -> int:
    row = lake.execute("SELECT id FROM ducklake_current_snapshot('lake')").fetchone()
    assert row is not None, "a lake has a snapshot since it was made"
    return int(row[0])


def _check(name: str, found: int, rows: Mapping[str, int]) -> None:
    if found != rows[name]:
        raise ChecksumMismatch(f"{name} has {found} rows instead of {rows[name]}")


def _names(session: Session, table: str) -> str:
    return ", ".join(f'"{name}"' for name, _ in session.run(_COLUMNS, table=table))


def _copy_out(session: Session, table: str, target: Path) -> int:
    """Write a table; how many rows it has."""
    with gzip.open(target, "wb", compresslevel=3) as file:
        session.copy(f'COPY pacs."{table}" ({_names(session, table)}) TO STDOUT (FORMAT csv, HEADER)', file)
    return int(session.run(f'SELECT count(*) FROM pacs."{table}"')[0][0])  # noqa: S608 a name from the catalog


def _copy_in(session: Session, table: str, source: Path) -> int:
    """Fill a table; how many rows it has now. Columns that the file does not know keep their defaults."""
    with gzip.open(source, "rb") as file:
        header = file.readline().decode().rstrip("\r\n")
        columns = ", ".join(f'"{name}"' for name in header.split(","))
        session.copy(f'COPY pacs."{table}" ({columns}) FROM STDIN (FORMAT csv)', file)
    for name, is_identity in session.run(_COLUMNS, table=table):
        if is_identity:
            session.run(
                f'SELECT setval(pg_get_serial_sequence(:table, :name), (SELECT coalesce(max("{name}"), 0) + 1 FROM pacs."{table}"), false)',  # noqa: S608 names from the catalog
                table=f'pacs."{table}"',
                name=name,
            )
    return int(session.run(f'SELECT count(*) FROM pacs."{table}"')[0][0])  # noqa: S608 a name from the catalog


def _in_order(tables: Sequence[str], references: Sequence[Row]) -> list[str]:
    """Tables, those that others refer to first."""
    ordered: list[str] = []
    left = list(tables)
    while left:
        free = [each for each in left if not any(child == each and parent in left for child, parent in references)]
        ordered += free or left
        left = [each for each in left if free and each not in free]
    return ordered
