"""Upkeep of the lake: rows that were inlined in the catalog move to Parquet, small files are merged, what nobody needs is removed.

The committer does the small part as it goes; the flow `maintain` does all of it, through the same steps.

Measured: reads slow down from about 1,000 inlined rows of our width (30 to 45 ms a look-up) and with every file
(17 ms at 2, 21 ms at 40, 31 ms at 120); a flush of 2,000 rows takes 0.3 s, a merge of 120 files as long.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import duckdb
import structlog

from pacs_core.index.durability import DataFiles
from pacs_core.index.postgres import Session

if TYPE_CHECKING:
    from pacs_core.index.commit import LakeIndexWriter  # which has a Maintenance

log = structlog.get_logger(__name__)

_CHECK_EVERY = 16  # commits
_FLUSH_ROWS = 1000
_MERGE_FILES = 32
# Files past this size are left alone, or each merge would rewrite all that was merged before.
_SMALL_FILE = 4_000_000  # bytes
# The flow merges once a day, and only what is left alone by everything smaller.
_LARGE_FILE = 128_000_000
# Merged files are kept for the queries that still read them.
_KEEP_MERGED = "1 hour"
# A file that no snapshot names may belong to a commit that is on its way.
_KEEP_ORPHANS = "1 day"
_DELETED_SHARE = 0.25  # of a file's rows; from there on it is written anew

_INLINED_TABLES = "SELECT table_name FROM lake.ducklake_inlined_data_tables"
_SMALL_FILES = (
    "SELECT coalesce(max(files), 0) FROM (SELECT count(*) AS files FROM lake.ducklake_data_file"
    " WHERE end_snapshot IS NULL AND file_size_bytes < :size GROUP BY table_id) AS per_table"
)
_FILES = "SELECT count(*), coalesce(sum(file_size_bytes), 0)::bigint FROM lake.ducklake_data_file WHERE end_snapshot IS NULL"
_DELETED = "SELECT coalesce(sum(delete_count), 0)::bigint FROM lake.ducklake_delete_file WHERE end_snapshot IS NULL"
# Of a snapshot that is valid at an instant, the time; everything before it can go without that instant being affected.
_VALID_AT = "SELECT max(snapshot_time) FROM lake.ducklake_snapshot WHERE snapshot_time <= :instant"
_EXPIRABLE = "SELECT count(*) FROM lake.ducklake_snapshot WHERE snapshot_time < :limit"
# Released holds are removed; one whose time is over holds nothing any more.
_EARLIEST_HOLD = "SELECT min(placed_at) FROM pacs.hold WHERE until IS NULL OR until > now()"
_OLD_ASSOCIATIONS = "SELECT count(*) FROM pacs.association WHERE closed_at < :before"
_FORGET_ASSOCIATIONS = "DELETE FROM pacs.association WHERE closed_at < :before RETURNING 1"
_TABLES = (
    "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema IN ('pacs', 'lake') AND table_type = 'BASE TABLE'"
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
        if (rows := inlined_rows(session)) >= flush_rows:
            flush(lake, self._files)
            log.info("index_flushed", rows=rows)
        if (files := session.run(_SMALL_FILES, size=_SMALL_FILE)[0][0]) >= merge_files:
            merge(lake, self._files, up_to=_SMALL_FILE)
            clean_up(lake)
            log.info("index_merged", files=files)


class Step(StrEnum):
    """The steps, in their order."""

    FLUSH = "flush"
    REWRITE = "rewrite"
    MERGE = "merge"
    EXPIRE = "expire"
    CLEAN_UP = "clean up"
    REMOVE_ORPHANS = "remove orphans"
    FORGET = "forget"
    ANALYZE = "analyze"


@dataclass(frozen=True, slots=True)
class UpkeepStep:
    """What one step did, or, in a dry run, would do: `count` things of a kind, and their bytes where they have some."""

    step: Step
    count: int
    what: str
    bytes: int = 0


class Upkeep:
    """All of the upkeep, a step at a time, each in a turn of its own: commits go on between them. Every step may be repeated.

    Args:
        expire_before: snapshots that nobody needs to look at from this instant on are forgotten. Never one that was valid when a
            hold that is still on was placed, nor a later one.
    """

    def __init__(self, writer: "LakeIndexWriter", *, expire_before: datetime) -> None:
        self._writer = writer
        self._expire_before = expire_before

    def planned(self) -> list[UpkeepStep]:
        """What there is to do; changes nothing."""
        with self._writer.committing() as (session, lake):
            (files, size), (deleted,) = session.run(_FILES)[0], session.run(_DELETED)[0]
            limit = self._limit(session)
            return [
                UpkeepStep(Step.FLUSH, inlined_rows(session), "inlined rows"),
                UpkeepStep(Step.REWRITE, deleted, "deleted rows"),
                UpkeepStep(Step.MERGE, files, "files", size),
                UpkeepStep(Step.EXPIRE, session.run(_EXPIRABLE, limit=limit)[0][0] if limit else 0, "snapshots"),
                UpkeepStep(Step.CLEAN_UP, len(clean_up(lake, dry_run=True)), "files that no snapshot needs"),
                UpkeepStep(Step.REMOVE_ORPHANS, len(_remove_orphans(lake, dry_run=True)), "files that no commit has named"),
                UpkeepStep(Step.FORGET, session.run(_OLD_ASSOCIATIONS, before=self._expire_before)[0][0], "records of associations"),
                UpkeepStep(Step.ANALYZE, len(session.run(_TABLES)), "tables"),
            ]

    def do(self, step: Step) -> UpkeepStep:
        """Do one step."""
        return {
            Step.FLUSH: self.flush,
            Step.REWRITE: self.rewrite,
            Step.MERGE: self.merge,
            Step.EXPIRE: self.expire,
            Step.CLEAN_UP: self.clean_up,
            Step.REMOVE_ORPHANS: self.remove_orphans,
            Step.FORGET: self.forget,
            Step.ANALYZE: self.analyze,
        }[step]()

    def flush(self) -> UpkeepStep:
        """Move what is inlined in the catalog to Parquet."""
        with self._writer.committing() as (session, lake):
            rows = inlined_rows(session)
            if rows:
                flush(lake, self._writer.files)
        return UpkeepStep(Step.FLUSH, rows, "inlined rows")

    def rewrite(self) -> UpkeepStep:
        """Write files anew many of whose rows are deleted."""
        with self._writer.committing() as (session, lake):
            before = session.run(_DELETED)[0][0]
            with self._writer.files.transaction(lake):
                lake.execute("CALL ducklake_rewrite_data_files('lake', delete_threshold => ?)", [_DELETED_SHARE]).fetchall()
            return UpkeepStep(Step.REWRITE, before - session.run(_DELETED)[0][0], "deleted rows")

    def merge(self) -> UpkeepStep:
        """Make few files of many."""
        with self._writer.committing() as (session, lake):
            before = session.run(_FILES)[0][0]
            merge(lake, self._writer.files, up_to=_LARGE_FILE)
            after, size = session.run(_FILES)[0]
            return UpkeepStep(Step.MERGE, before - after, "files fewer", size)

    def expire(self) -> UpkeepStep:
        """Forget old snapshots."""
        with self._writer.committing() as (session, lake):
            limit = self._limit(session)
            expired = lake.execute("CALL ducklake_expire_snapshots('lake', older_than => ?)", [limit]).fetchall() if limit else []
        return UpkeepStep(Step.EXPIRE, len(expired), "snapshots")

    def clean_up(self) -> UpkeepStep:
        """Remove the files that were merged, rewritten, or of snapshots that are forgotten."""
        with self._writer.committing() as (_, lake):
            return UpkeepStep(Step.CLEAN_UP, len(clean_up(lake)), "files that no snapshot needs")

    def remove_orphans(self) -> UpkeepStep:
        """Remove the files of commits that were killed before the catalog named them."""
        with self._writer.committing() as (_, lake):
            return UpkeepStep(Step.REMOVE_ORPHANS, len(_remove_orphans(lake)), "files that no commit has named")

    def forget(self) -> UpkeepStep:
        """Remove what associations did that ended before the instant from which on snapshots are kept."""
        with self._writer.committing() as (session, _):
            forgotten = len(session.run(_FORGET_ASSOCIATIONS, before=self._expire_before))
        return UpkeepStep(Step.FORGET, forgotten, "records of associations")

    def analyze(self) -> UpkeepStep:
        """Refresh the statistics that PostgreSQL plans by."""
        with self._writer.committing() as (session, _):
            tables = session.run(_TABLES)
            for schema, table in tables:
                session.run(f'ANALYZE "{schema}"."{table}"')
        return UpkeepStep(Step.ANALYZE, len(tables), "tables")

    def close(self) -> None:
        """Release everything."""
        self._writer.close()

    def _limit(self, session: Session) -> datetime | None:
        """The time of the oldest snapshot that stays; None if all do."""
        ((held_since,),) = session.run(_EARLIEST_HOLD)
        instant = min(self._expire_before, held_since or self._expire_before)
        ((limit,),) = session.run(_VALID_AT, instant=instant)
        return limit if isinstance(limit, datetime) else None


def inlined_rows(session: Session) -> int:
    """Rows that are in the catalog and not in a file."""
    tables = [row[0] for row in session.run(_INLINED_TABLES)]
    if not tables:
        return 0
    counts = " + ".join(f'(SELECT count(*) FROM lake."{table}")' for table in tables)  # noqa: S608 names that DuckLake made
    return int(session.run(f"SELECT {counts}")[0][0])


def flush(lake: duckdb.DuckDBPyConnection, files: DataFiles) -> None:
    """Move all of them to files."""
    with files.transaction(lake):
        lake.execute("CALL ducklake_flush_inlined_data('lake')").fetchall()


def merge(lake: duckdb.DuckDBPyConnection, files: DataFiles, *, up_to: int) -> None:
    """Merge the files that are smaller."""
    with files.transaction(lake):
        lake.execute("CALL ducklake_merge_adjacent_files('lake', max_file_size => ?)", [up_to]).fetchall()


def clean_up(lake: duckdb.DuckDBPyConnection, *, dry_run: bool = False) -> list[str]:
    """Remove files that no snapshot names any more, once no query can still read them; which."""
    rows = lake.execute(
        f"CALL ducklake_cleanup_old_files('lake', older_than => now() - INTERVAL '{_KEEP_MERGED}', dry_run => ?)", [dry_run]
    ).fetchall()
    return [path for (path,) in rows]


def _remove_orphans(lake: duckdb.DuckDBPyConnection, *, dry_run: bool = False) -> list[str]:
    rows = lake.execute(
        f"CALL ducklake_delete_orphaned_files('lake', older_than => now() - INTERVAL '{_KEEP_ORPHANS}', dry_run => ?)", [dry_run]
    ).fetchall()
    return [path for (path,) in rows]
