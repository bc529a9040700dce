"""Records that were gathered from storage, far more than memory holds, and the order in which the index is to be told of them.

They lie in Parquet files, one for each shard of storage that was read; DuckDB sorts them, and spills where it has to.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet

from pacs_core.errors import IndexUnavailable
from pacs_core.index.lake import Engine, open_duckdb

_BATCH = 1000  # rows fetched at a time
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
# Of the objects of an instance: a replacement before what it replaced, the first to arrive before later ones, the fastest tier's first.
_RANKED = """
    SELECT *, row_number() OVER (
        PARTITION BY instance ORDER BY replacement DESC, CASE WHEN replacement THEN -epoch_us(received_at) ELSE epoch_us(received_at) END,
        sha256, rank, path
    ) = 1 AS is_holder FROM read_parquet(?)
"""


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
    """What all shards have found. Each call reads the files anew."""

    def __init__(self, files: Sequence[Path], *, engine: Engine | None = None) -> None:
        self._files = [str(path) for path in files]
        self._engine = engine or Engine()

    def holders(self) -> Iterator[str]:
        """One object of each instance, as text, in the order in which they were received."""
        return self._rows("is_holder", "received_at, instance")

    def others(self) -> Iterator[str]:
        """The other objects of instances that have several, as text."""
        return self._rows("NOT is_holder", "instance, rank, path")

    def _rows(self, condition: str, order: str) -> Iterator[str]:
        if not self._files:
            return
        connection = open_duckdb(self._engine)
        try:
            query = f"SELECT content FROM ({_RANKED}) WHERE {condition} ORDER BY {order}"  # noqa: S608 constants
            result = connection.execute(query, [self._files])
            while rows := result.fetchmany(_BATCH):
                yield from (content for (content,) in rows)
        except duckdb.Error as exc:  # not as the cause: its message may quote a row, and with it a patient
            raise IndexUnavailable(f"the gathered records cannot be sorted ({type(exc).__name__})") from None
        finally:
            connection.close()
