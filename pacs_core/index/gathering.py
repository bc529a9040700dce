"""Records that were gathered from storage, far more than memory holds, and the order in which the index is to be told of them.

They lie in Parquet files, one for each shard of storage that was read; DuckDB sorts them, and spills where it has to.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet

from pacs_core.errors import IndexUnavailable
from pacs_core.index.lake import Engine, open_duckdb

_BATCH = 1000  # rows fetched at a time
_SORTED_AT_ONCE = 50_000  # records
_SCHEMA = pa.schema(
    [
        ("instance", pa.string()),
        ("received_at", pa.timestamp("us", tz="UTC")),
        ("replacement", pa.bool_()),
        ("rank", pa.int16()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("content", pa.string()),
    ]
)
_FILES = "read_parquet(?, filename = true, file_row_number = true)"
# Which instances have several objects, found out by numbers: contents do not fit into memory, and a window over them does not spill.
_SEVERAL = f"CREATE TEMP TABLE several AS SELECT hash(instance) AS number FROM {_FILES} GROUP BY ALL HAVING count(*) > 1"  # noqa: S608 a constant
# Of those: a replacement before what it replaced, the first to arrive before later ones, the fastest tier's first.
_SECOND = f"""
    CREATE TEMP TABLE other AS SELECT filename, file_row_number FROM (
        SELECT filename, file_row_number, row_number() OVER (
            PARTITION BY instance
            ORDER BY replacement DESC, CASE WHEN replacement THEN -epoch_us(received_at) ELSE epoch_us(received_at) END, rank, path
        ) AS place FROM {_FILES} WHERE hash(instance) IN (SELECT number FROM several)
    ) WHERE place > 1
"""  # noqa: S608 a constant
# Where the order is cut, so that what is sorted at once fits into memory with its contents.
_CUTS = f"""
    SELECT received_at FROM (SELECT received_at, row_number() OVER (ORDER BY received_at) AS number FROM {_FILES})
    WHERE number % ? = 1 GROUP BY ALL ORDER BY ALL
"""  # noqa: S608 constants
_HOLDERS = f"""
    SELECT content FROM {_FILES} AS found ANTI JOIN other USING (filename, file_row_number)
    WHERE received_at >= ? AND (received_at < ? OR ? IS NULL) ORDER BY received_at, instance
"""  # noqa: S608 a constant
_OTHERS = f"SELECT content FROM {_FILES} AS found SEMI JOIN other USING (filename, file_row_number)"  # noqa: S608 a constant


@dataclass(frozen=True, slots=True)
class Gathered:
    """An object that was found.

    Attributes:
        instance: its SOPInstanceUID, as the index can hold it.
        replacement: whether its name says that it took another's place.
        rank: of its tier; 0 is the fastest.
        content: the whole record, as text.
    """

    instance: str
    received_at: datetime
    replacement: bool
    rank: int
    path: str
    sha256: str
    content: str


def write_gathered(path: Path, found: Iterable[Gathered]) -> None:
    """Make a file of what one shard has; whole or not at all, on stable storage. OSError if that is impossible."""
    rows = [{name: getattr(each, name) for name in _SCHEMA.names} for each in found]
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        pa.parquet.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class GatheredFiles:
    """What all shards have found; there is at least one file. Each call reads the files anew.

    Args:
        at_once: about how many records are sorted at a time.
    """

    def __init__(self, files: Sequence[Path], *, engine: Engine | None = None, at_once: int = _SORTED_AT_ONCE) -> None:
        self._at_once = at_once
        self._files = [str(path) for path in files]
        self._engine = engine or Engine()

    def holders(self) -> Iterator[str]:
        """One object of each instance, as text, in the order in which they were received."""
        with self._ranked() as connection:
            cuts = [cut for (cut,) in connection.execute(_CUTS, [self._files, self._at_once]).fetchall()]
            for begin, end in pairwise([*cuts, None]):
                yield from _texts(connection.execute(_HOLDERS, [self._files, begin, end, end]))

    def others(self) -> Iterator[str]:
        """The other objects of instances that have several, as text."""
        with self._ranked() as connection:
            yield from _texts(connection.execute(_OTHERS, [self._files]))

    @contextmanager
    def _ranked(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """An instance that knows which objects are `other`."""
        connection = open_duckdb(self._engine)
        try:
            connection.execute(_SEVERAL, [self._files])
            connection.execute(_SECOND, [self._files])
            yield connection
        except duckdb.Error as exc:  # not as the cause: its message may quote a row, and with it a patient
            raise IndexUnavailable(f"the gathered records cannot be sorted ({type(exc).__name__})") from None
        finally:
            connection.close()


def _texts(result: duckdb.DuckDBPyConnection) -> Iterator[str]:
    while rows := result.fetchmany(_BATCH):
        yield from (content for (content,) in rows)
