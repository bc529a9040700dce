"""The reader's side of the journal: what is waiting for the index, and for its object's sync. Never in the way of the writers."""

import heapq
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from pacs_core.model import InstanceRecord
from pacs_core.ports import Journalled, JournalMark
from pacs_core.storage.files import abandoned, fsync_directory, make_directories, sole, translated, unique_name, write_atomically
from pacs_core.storage.segments import (
    NO_PROGRESS,
    PROGRESS,
    Entry,
    Progress,
    Segment,
    hastened_since,
    is_torn,
    read_entries,
    read_progress,
    record_to_json,
    segments,
)

log = structlog.get_logger(__name__)

_CLOCK_STEP = 10_000_000_000  # nanoseconds; an append that is further ahead of the clock was made before the clock was set back

_BEGINNING = JournalMark()

_Offset = Callable[[str, Progress], int]


class JournalReader:
    """ports.Uncommitted on the directory that `SegmentJournal` writes to.

    Each method may be called by one thread at a time, and different ones at the same time.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unreadable: set[str] = set()  # the segments that were complained of
        self._progressing = threading.Lock()

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Try to become the only committer; see ports.Uncommitted."""
        with sole(self._directory, "committer") as is_sole:
            if is_sole:
                self.tidy()
            yield is_sole

    def pending(self, limit: int, *, after: JournalMark = _BEGINNING) -> tuple[Sequence[Journalled], JournalMark]:
        """The oldest uncommitted instances; see ports.Uncommitted."""
        read = dict(after.ends)
        return self._read(limit, lambda generation, progress: max(progress.indexed, read.get(generation, 0)), indexed=False)

    def unsecured(self, limit: int) -> tuple[Sequence[Journalled], JournalMark]:
        """The oldest indexed instances whose objects may not be synced; see ports.Uncommitted."""
        return self._read(limit, lambda _, progress: progress.secured, indexed=True)

    def done(self, mark: JournalMark) -> None:
        """Remember what is in the index; see ports.Uncommitted."""
        with translated("remembering what is indexed"):
            self._advance(mark, lambda progress, end: Progress(max(end, progress.indexed), progress.secured))

    def secured(self, mark: JournalMark) -> None:
        """Remember whose objects are synced; see ports.Uncommitted."""
        with translated("remembering what is synced"):
            self._advance(mark, lambda progress, end: Progress(progress.indexed, max(end, progress.secured)))

    def tidy(self) -> None:
        """Remove what is dealt with; see ports.Uncommitted."""
        with translated("tidying the journal"), self._progressing:
            self._tidy(segments(self._directory), read_progress(self._directory))

    def hastened_since(self, when: float) -> bool:
        """Whether somebody waits; see ports.Uncommitted."""
        return hastened_since(self._directory, when)

    def park(self, record: InstanceRecord, *, reason: str) -> str:
        """Keep a record aside; see ports.Uncommitted."""
        path = self._directory / "parked" / f"{unique_name()}.json"
        with translated("parking a journal record"):
            make_directories(path.parent)
            write_atomically(path, json.dumps({"reason": reason, "record": record_to_json(record)}, indent=2).encode())
        return str(path)

    def _read(self, limit: int, start: _Offset, *, indexed: bool) -> tuple[list[Journalled], JournalMark]:
        """The oldest instances that are past a point of their segment's progress, and are, or are not, indexed."""
        # What is appended from here on waits for the next call. Segments are read one after another, so otherwise a later
        # append to one could be seen, and an earlier one to another, already read, could not.
        cutoff = time.time_ns()
        found: list[Journalled] = []
        ends: dict[str, int] = {}
        with translated("reading the journal"):
            progress = read_progress(self._directory)
            for entry in self._oldest_first(progress, start, cutoff):
                if indexed is not (entry.end <= progress.get(entry.generation, NO_PROGRESS).indexed):
                    continue
                found.append(Journalled(entry.record, entry.appended_ns, entry.content))
                ends[entry.generation] = entry.end
                if len(found) >= limit:
                    break
        return found, JournalMark(tuple(ends.items()))

    def _advance(self, mark: JournalMark, advanced: Callable[[Progress, int], Progress]) -> None:
        if not mark.ends:
            return
        with self._progressing:
            progress = dict(read_progress(self._directory))
            for generation, end in mark.ends:
                progress[generation] = advanced(progress.get(generation, NO_PROGRESS), end)
            present = segments(self._directory)
            alive = {segment.generation for segment in present}
            state = {generation: each for generation, each in progress.items() if generation in alive}
            encoded = json.dumps({generation: (each.indexed, each.secured) for generation, each in state.items()}).encode()
            write_atomically(self._directory / PROGRESS, encoded)
            # With a backlog most segments have more to give; looking into each of them each time would make it last.
            read = {generation for generation, _ in mark.ends}
            self._tidy([segment for segment in present if segment.generation in read], state)

    def _oldest_first(self, progress: Mapping[str, Progress], start: _Offset, cutoff: int) -> Iterator[Entry]:
        """What is past a point of their progress in all segments, by the time of the append.

        Within a segment the order of the file wins over the clock, because an end covers all before it. A segment is
        open only once an entry of it can be the next, so that a backlog of any size takes few descriptors: none that
        begins after another append is older than the segment that it is in.
        """
        closed = deque(segments(self._directory))
        heads: list[tuple[int, str, Entry, Iterator[Entry]]] = []  # of each open segment the next entry
        while closed or heads:
            while closed and (not heads or closed[0].began_ns <= heads[0][0]):
                segment = closed.popleft()
                _push(heads, self._entries(segment, start(segment.generation, progress.get(segment.generation, NO_PROGRESS)), cutoff))
            if heads:
                _, _, entry, rest = heapq.heappop(heads)
                yield entry
                _push(heads, rest)

    def _entries(self, segment: Segment, offset: int, cutoff: int) -> Iterator[Entry]:
        """The entries of a segment up to the cutoff. One that cannot be read is logged and ends there: others go on."""
        try:
            for entry in read_entries(segment, offset):
                if cutoff < entry.appended_ns < cutoff + _CLOCK_STEP:
                    return
                yield entry
        except (OSError, ValueError, LookupError, TypeError) as exc:
            self._complain(segment.path, exc)

    def _complain(self, path: Path, error: Exception) -> None:
        """Log, once, that a segment cannot be read; not if it is only gone."""
        if not isinstance(error, FileNotFoundError) and path.name not in self._unreadable:
            self._unreadable.add(path.name)
            # Only the kind of error: what is said of a record could quote it.
            log.error("journal_segment_unreadable", segment=path.name, error=type(error).__name__)

    def _tidy(self, present: Iterable[Segment], progress: Mapping[str, Progress]) -> None:
        """Remove those segments that are wholly dealt with and that nobody will append to."""
        for segment in present:
            try:
                with abandoned(segment.path) as is_abandoned:
                    if is_abandoned:
                        self._retire(segment, progress.get(segment.generation, NO_PROGRESS).finished)
            except (OSError, ValueError, LookupError, TypeError) as exc:
                self._complain(segment.path, exc)

    def _retire(self, segment: Segment, finished: int) -> None:
        if next(read_entries(segment, finished), None) is not None:
            return
        if is_torn(segment, finished):
            # A crash in the middle of an append leaves this and nothing in it was acknowledged; a failing disk leaves
            # it too, so it is kept for a person to look at.
            torn = self._directory / "torn"
            make_directories(torn)
            segment.path.replace(torn / segment.path.name)
            fsync_directory(torn)
            log.warning("journal_tail_torn", segment=segment.path.name, offset=finished)
        else:
            segment.path.unlink(missing_ok=True)


def _push(heads: list[tuple[int, str, Entry, Iterator[Entry]]], entries: Iterator[Entry]) -> None:
    entry = next(entries, None)
    if entry is not None:
        heapq.heappush(heads, (entry.appended_ns, entry.generation, entry, entries))
