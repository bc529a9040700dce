"""What an index holds, as a whole: whether it is empty, and digests by which two of them are compared."""

import hashlib
from collections.abc import Mapping

from pacs_core.index.lake import LakeReader
from pacs_core.index.schema import COLUMNS
from pacs_core.model import Level

# What storage cannot tell: when an object was last found intact, and since when and by whom it is where it is.
UNKNOWN_TO_STORAGE = frozenset({"verified_at", "located_at", "located_by"})


def digests(lake: LakeReader, *, everything: bool = False) -> Mapping[str, str]:
    """By table, the SHA-256 of its sorted rows; without what storage cannot tell, unless `everything` is asked for."""
    return {level.table: _digest(lake, level, frozenset() if everything else UNKNOWN_TO_STORAGE) for level in Level}


def _digest(lake: LakeReader, level: Level, without: frozenset[str]) -> str:
    columns = ", ".join(f'"{column.name}"::VARCHAR' for column in COLUMNS[level] if column.name not in without)
    digest = hashlib.sha256()
    for row in lake.rows(f"SELECT {columns} FROM lake.{level.table} ORDER BY ALL"):  # noqa: S608 constants
        digest.update(repr(row).encode() + b"\n")
    return digest.hexdigest()
