"""Upkeep of the lake: rows that were inlined in the catalog move to Parquet, small files are merged.

Measured: reads slow down from about 1,000 inlined rows of our width (30 to 45 ms a look-up) and with every file
(17 ms at 2, 21 ms at 40, 31 ms at 120); a flush of 2,000 rows takes 0.3 s, a merge of 120 files as long.
"""

import duckdb
import structlog

from pacs_core.index.durability import DataFiles
from pacs_core.index.postgres import Session

log = structlog.get_logger(__name__)

_CHECK_EVERY = 16  # commits
_FLUSH_ROWS = 1000
_MERGE_FILES = 32
# Files past this size are left alone, or each merge would rewrite all that was merged before.
_SMALL_FILE = 4_000_000  # bytes
# Merged files are kept for the queries that still read them.
_KEEP_MERGED = "1 hour"

_INLINED_TABLES = "SELECT table_name FROM lake.ducklake_inlined_data_tables"
_SMALL_FILES = (
    "SELECT coalesce(max(files), 0) FROM (SELECT count(*) AS files FROM lake.ducklake_data_file"
    " WHERE end_snapshot IS NULL AND file_size_bytes < :size GROUP BY table_id) AS per_table"
)


class Maintenance:
    """Looks after a lake from inside its committer, which holds the lock."""

    def __init__(self, files: DataFiles) -> None:
        self._files = files
        self._commits = 0

    def after_commit(self, session: Session, lake: duckdb.DuckDBPyConnection) -> None:
        """Do what is due. Raises duckdb.Error and OSError; the lake is then as it was."""
        self._commits += 1
        if self._commits % _CHECK_EVERY == 0:
            self.run(session, lake, flush_rows=_FLUSH_ROWS, merge_files=_MERGE_FILES)

    def run(self, session: Session, lake: duckdb.DuckDBPyConnection, *, flush_rows: int = 1, merge_files: int = _MERGE_FILES) -> None:
        """Flush from that many inlined rows on, merge from that many small files of a table on."""
        if (rows := _inlined_rows(session)) >= flush_rows:
            with self._files.transaction(lake):
                lake.execute("CALL ducklake_flush_inlined_data('lake')").fetchall()
            log.info("index_flushed", rows=rows)
        if (files := session.run(_SMALL_FILES, size=_SMALL_FILE)[0][0]) >= merge_files:
            with self._files.transaction(lake):
                lake.execute("CALL ducklake_merge_adjacent_files('lake', max_file_size => ?)", [_SMALL_FILE]).fetchall()
            lake.execute(f"CALL ducklake_cleanup_old_files('lake', older_than => now() - INTERVAL '{_KEEP_MERGED}')").fetchall()
            log.info("index_merged", files=files)


def _inlined_rows(session: Session) -> int:
    tables = [row[0] for row in session.run(_INLINED_TABLES)]
    if not tables:
        return 0
    counts = " + ".join(f'(SELECT count(*) FROM lake."{table}")' for table in tables)  # noqa: S608 names that DuckLake made
    return int(session.run(f"SELECT {counts}")[0][0])
