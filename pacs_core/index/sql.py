"""SQL for people: a read-only session on the index, for `pacs sql`.

The lake's tables are the default schema, the operational tables of PostgreSQL are in the catalog `ops`; both are
found without a prefix. What keeps the session read-only, from the inside out:

- the lake and PostgreSQL are attached read-only, and PostgreSQL's own sessions are read-only too;
- DuckDB's configuration is locked, with no access to files other than the lake's, no extensions and no Python objects;
- only single SELECT statements are run (SHOW, DESCRIBE, SUMMARIZE and EXPLAIN among them), and in them only table
  functions known to be harmless: `postgres_query`, for one, would run anything at all on the server.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from pacs_core.errors import IndexUnavailable, RequestError
from pacs_core.index.lake import Engine, literal, open_to_read
from pacs_core.index.migrations import OPERATIONAL_SCHEMA
from pacs_core.index.postgres import CatalogURL

_APPLICATION = "pacs-sql"
_BATCH = 2000  # rows

_EXPLAIN = re.compile(r"\s*EXPLAIN(\s+ANALYZE)?\b", re.IGNORECASE)

# Under this name DuckLake attaches the PostgreSQL of its catalog, all schemas of it, pg_shadow among their tables.
_CATALOG_DATABASE = "__ducklake_metadata"

_TABLE_FUNCTIONS = frozenset(
    {
        "duckdb_columns",
        "duckdb_functions",
        "duckdb_keywords",
        "duckdb_schemas",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_views",
        "ducklake_current_snapshot",
        "ducklake_list_files",
        "ducklake_options",
        "ducklake_snapshots",
        "ducklake_table_changes",
        "ducklake_table_deletions",
        "ducklake_table_info",
        "ducklake_table_insertions",
        "generate_series",
        "json_each",
        "json_tree",
        "pragma_table_info",
        "pragma_version",
        "range",
        "repeat",
        "repeat_row",
        "summary",
        "unnest",
    }
)


class InvalidSQL(RequestError):
    """A statement that DuckDB does not understand, or that this session does not run. The message is for its author."""


@dataclass(frozen=True, slots=True)
class SQLResult:
    """What a statement returned. To be read once, before the session runs another.

    Attributes:
        schema: names and types of the columns.
        batches: the rows, streamed. InvalidSQL or IndexUnavailable where a value turns out to be wrong on the way.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names."""
        return tuple(self.schema.names)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows as Python values, streamed."""
        for batch in self.batches:
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def table(self) -> pa.Table:
        """Everything as one Arrow table."""
        return pa.Table.from_batches(self.batches, schema=self.schema)


class SQLSession:
    """A session on the index. One statement at a time; `interrupt` may be called from another thread."""

    def __init__(self, catalog_url: str, data_path: str, *, engine: Engine | None = None) -> None:
        """Opens at the first statement. ConfigurationError for a wrong URL."""
        self._catalog = CatalogURL.parse(catalog_url)
        self._data_path = data_path
        self._engine = engine or Engine()
        self._connection: duckdb.DuckDBPyConnection | None = None

    def run(self, sql: str) -> SQLResult:
        """Run one statement.

        InvalidSQL says what is wrong with it; IndexUnavailable, that the index does not answer, in which case the next
        statement connects anew.
        """
        _check(sql)
        connection = self._connection = self._connection or self._open()
        try:
            reader = connection.execute(sql).to_arrow_reader(_BATCH)
        except duckdb.Error as exc:
            raise self._translated(exc) from exc
        return SQLResult(reader.schema, self._batches(reader))

    def interrupt(self) -> None:
        """Break off the running statement, which then raises InvalidSQL."""
        if self._connection is not None:
            self._connection.interrupt()

    def close(self) -> None:
        """Disconnect. A later statement connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(duckdb.Error):
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        try:
            connection = open_to_read(self._engine, self._catalog, self._data_path, application_name=_APPLICATION)
        except duckdb.Error as exc:
            raise IndexUnavailable("the index cannot be opened") from exc
        try:
            _attach_operational(connection, self._catalog)
            _lock_down(connection, self._data_path)
        except duckdb.Error as exc:
            connection.close()
            raise IndexUnavailable("the index cannot be opened") from exc
        return connection

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except duckdb.Error as exc:
            raise self._translated(exc) from exc
        except (pa.ArrowException, OSError) as exc:  # how Arrow passes on an error of DuckDB's
            raise InvalidSQL(str(exc)) from exc

    def _translated(self, exc: duckdb.Error) -> InvalidSQL | IndexUnavailable:
        """By class: the author's fault, or ours. After ours the instance of DuckDB is not used again."""
        if isinstance(exc, _AUTHORS_FAULT):
            return InvalidSQL(str(exc))
        self.close()
        return IndexUnavailable("the index did not answer")


# DuckDB's classes for statements that cannot work, whatever the state of the index.
_AUTHORS_FAULT = (
    duckdb.ProgrammingError,
    duckdb.DataError,
    duckdb.NotSupportedError,
    duckdb.ConstraintException,
    duckdb.DependencyException,
    duckdb.InterruptException,
    duckdb.OutOfMemoryException,
    duckdb.PermissionException,
)


def _attach_operational(connection: duckdb.DuckDBPyConnection, catalog: CatalogURL) -> None:
    source = literal(catalog.libpq(application_name=_APPLICATION, read_only=True))
    connection.execute(f"ATTACH {source} AS ops (TYPE postgres, READ_ONLY, SCHEMA '{OPERATIONAL_SCHEMA}', SECRET pacs_catalog)")
    connection.execute(f"SET search_path = 'lake.main,ops.{OPERATIONAL_SCHEMA}'")


def _lock_down(connection: duckdb.DuckDBPyConnection, data_path: str) -> None:
    for statement in (
        f"SET allowed_directories = [{literal(data_path)}]",
        "SET enable_external_access = false",
        "SET autoload_known_extensions = false",
        "SET lock_configuration = true",
    ):
        connection.execute(statement)


def _check(sql: str) -> None:
    """InvalidSQL unless it is one statement that only reads.

    Parsed by a DuckDB of its own, where nothing is attached and the names of functions lead nowhere.
    """
    with duckdb.connect(":memory:", config={"enable_external_access": False, "autoload_known_extensions": False}) as parser:
        try:
            _check_statement(parser, sql)
        except duckdb.Error as exc:
            raise InvalidSQL(str(exc)) from exc


def _check_statement(parser: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = parser.extract_statements(sql)
    if len(statements) != 1:
        raise InvalidSQL("Give one statement at a time. (DuckDB's PIVOT counts as several: use GROUP BY with FILTER.)")
    kind = statements[0].type
    if kind == duckdb.StatementType.EXPLAIN and (explain := _EXPLAIN.match(sql)):
        _check_statement(parser, sql[explain.end() :])
    elif kind == duckdb.StatementType.SELECT:
        _check_references(parser, statements[0].query)
    else:
        raise InvalidSQL("The index is read-only here: only SELECT, SHOW, DESCRIBE, SUMMARIZE and EXPLAIN are run.")


def _check_references(parser: duckdb.DuckDBPyConnection, sql: str) -> None:
    row = parser.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
    tree = json.loads(row[0]) if row else {"error": True}
    if tree["error"]:
        raise InvalidSQL(f"This statement cannot be checked to be read-only: {tree.get('error_message', 'no reason given')}")
    for node in _nodes(tree["statements"]):
        if node.get("type") == "TABLE_FUNCTION" and (name := str(node["function"]["function_name"])).lower() not in _TABLE_FUNCTIONS:
            raise InvalidSQL(f"The table function {name} is not available here.")
        if any(str(node.get(part, "")).lower().startswith(_CATALOG_DATABASE) for part in ("catalog_name", "schema_name")):
            raise InvalidSQL(
                "The lake's own catalog is not available here; ducklake_snapshots('lake') and ducklake_table_info('lake') are."
            )


def _nodes(tree: object) -> Iterator[dict[str, Any]]:
    """Every node of a syntax tree."""
    if isinstance(tree, list):
        for child in tree:
            yield from _nodes(child)
    elif isinstance(tree, dict):
        yield tree
        for child in tree.values():
            yield from _nodes(child)
