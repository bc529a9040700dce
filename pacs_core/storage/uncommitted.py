"""The reader's side of the journal: what is waiting for the index. Never in the way of the writers."""

import fcntl
import heapq
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from pacs_core.model import InstanceRecord
from pacs_core.ports import JournalMark
from pacs_core.storage.files import abandoned, fsync_directory, make_directories, translated, try_lock, unique_name, write_atomically
from pacs_core.storage.segments import COMMITTED, Entry, created_ns, read_committed, read_entries, record_to_json, segments

log = structlog.get_logger(__name__)

_CLOCK_STEP = 10_000_000_000  # nanoseconds; an append that is further ahead of the clock was made before the clock was set back


class JournalReader:
    """ports.Uncommitted on the directory that `SegmentJournal` writes to. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unreadable: set[str] = set()  # the segments that were complained of

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Try to become the only committer; see ports.Uncommitted."""
        with translated("locking the journal"):
            make_directories(self._directory)
            fd = os.open(self._directory / ".committer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if not try_lock(fd):
                yield False
                return
            with translated("tidying the journal"):
                self._tidy(segments(self._directory), read_committed(self._directory))
            try:
                yield True
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def pending(self, limit: int) -> tuple[Sequence[InstanceRecord], JournalMark]:
        """The oldest uncommitted records; see ports.Uncommitted."""
        # What is appended from here on waits for the next call. Segments are read one after another, so otherwise a later
        # append to one could be seen, and an earlier one to another, already read, could not.
        cutoff = time.time_ns()
        with translated("reading the journal"):
            committed = read_committed(self._directory)
            records: list[InstanceRecord] = []
            ends: dict[str, int] = {}
            for entry in self._oldest_first(committed, cutoff):
                records.append(entry.record)
                ends[entry.segment] = entry.end
                if len(records) >= limit:
                    break
            if not records:
                self._tidy(segments(self._directory), committed)
        return records, JournalMark(tuple(ends.items()))

    def done(self, mark: JournalMark) -> None:
        """Remember what is in the index; see ports.Uncommitted."""
        with translated("remembering what is indexed"):
            committed = dict(read_committed(self._directory))
            for name, end in mark.ends:
                committed[name] = max(end, committed.get(name, 0))
            present = {path.name: path for path in segments(self._directory) if path.name in committed}
            state = {name: committed[name] for name in present}
            write_atomically(self._directory / COMMITTED, json.dumps(state).encode())
            # With a backlog most segments have more to give; looking into each of them each time would make it last.
            read = {name for name, _ in mark.ends}
            self._tidy([path for name, path in present.items() if name in read or _is_at_end(path, state[name])], state)

    def park(self, record: InstanceRecord, *, reason: str) -> str:
        """Keep a record aside; see ports.Uncommitted."""
        path = self._directory / "parked" / f"{unique_name()}.json"
        with translated("parking a journal record"):
            make_directories(path.parent)
            write_atomically(path, json.dumps({"reason": reason, "record": record_to_json(record)}, indent=2).encode())
        return str(path)

    def _oldest_first(self, committed: Mapping[str, int], cutoff: int) -> Iterator[Entry]:
        """What is uncommitted in all segments, by the time of the append.

        Within a segment the order of the file wins over the clock, because an end covers all before it. A segment is
        open only once an entry of it can be the next, so that a backlog of any size takes few descriptors: none that
        follows another append is older than the segment that it is in.
        """
        closed = deque(segments(self._directory))
        heads: list[tuple[int, str, Entry, Iterator[Entry]]] = []  # of each open segment the next entry
        while closed or heads:
            while closed and (not heads or created_ns(closed[0]) <= heads[0][0]):
                path = closed.popleft()
                _push(heads, self._entries(path, committed.get(path.name, 0), cutoff))
            if heads:
                _, _, entry, rest = heapq.heappop(heads)
                yield entry
                _push(heads, rest)

    def _entries(self, path: Path, offset: int, cutoff: int) -> Iterator[Entry]:
        """The entries of a segment up to the cutoff. One that cannot be read is logged and ends there: others go on."""
        try:
            for entry in read_entries(path, offset):
                if cutoff < entry.appended_ns < cutoff + _CLOCK_STEP:
                    return
                yield entry
        except (OSError, ValueError, LookupError, TypeError) as exc:
            self._complain(path, exc)

    def _complain(self, path: Path, error: Exception) -> None:
        """Log, once, that a segment cannot be read; not if it is only gone."""
        if not isinstance(error, FileNotFoundError) and path.name not in self._unreadable:
            self._unreadable.add(path.name)
            # Only the kind of error: what is said of a record could quote it.
            log.error("journal_segment_unreadable", segment=path.name, error=type(error).__name__)

    def _tidy(self, paths: Iterable[Path], committed: Mapping[str, int]) -> None:
        """Remove those segments that are wholly indexed and that nobody will append to."""
        for path in paths:
            try:
                with abandoned(path) as is_abandoned:
                    if is_abandoned:
                        self._retire(path, committed.get(path.name, 0))
            except (OSError, ValueError, LookupError, TypeError) as exc:
                self._complain(path, exc)

    def _retire(self, path: Path, offset: int) -> None:
        if next(read_entries(path, offset), None) is not None:
            return
        unread = path.stat().st_size - offset
        if unread:
            # A crash in the middle of an append leaves this and nothing in it was acknowledged; a failing disk leaves
            # it too, so it is kept for a person to look at.
            torn = self._directory / "torn"
            make_directories(torn)
            path.replace(torn / path.name)
            fsync_directory(torn)
            log.warning("journal_tail_torn", segment=path.name, offset=offset, bytes=unread)
        else:
            path.unlink(missing_ok=True)


def _push(heads: list[tuple[int, str, Entry, Iterator[Entry]]], entries: Iterator[Entry]) -> None:
    entry = next(entries, None)
    if entry is not None:
        heapq.heappush(heads, (entry.appended_ns, entry.segment, entry, entries))


def _is_at_end(path: Path, offset: int) -> bool:
    try:
        return path.stat().st_size <= offset
    except FileNotFoundError:
        return False
