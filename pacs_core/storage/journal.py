"""The writer's side of the journal: what is acknowledged but not yet indexed, durable before anyone is told.

Threads that append at the same time share one sync: the first to need one syncs for all whose bytes are written by
then (leader), the others wait for the result (followers).
"""

import os
import threading
from pathlib import Path

import structlog

from pacs_core.errors import StorageUnavailable, UnavailableError
from pacs_core.model import InstanceRecord
from pacs_core.ports import JournalMark
from pacs_core.storage.files import create_locked, fsync_directory, make_directories, translated, unavailable, write_all
from pacs_core.storage.segments import SUFFIX, current_mark, encode_frame, is_committed

log = structlog.get_logger(__name__)

_SEGMENT_BYTES = 4 << 20
_MODE = 0o640


class _Segment:
    """One file that this process appends to. Guarded by the journal's condition."""

    def __init__(self, directory: Path) -> None:
        self.path, self.fd = create_locked(directory, suffix=SUFFIX, flags=os.O_WRONLY | os.O_APPEND, mode=_MODE)
        self.written = 0  # end of the last whole frame
        self.synced = 0
        self.syncing = False
        self.users = 0  # threads between writing and knowing the outcome
        self.retired = False  # takes no further appends
        self.failure: UnavailableError | None = None

    def write(self, frame: bytes) -> int:
        """Append a frame whole or, visibly to no one, not at all; returns the offset past it."""
        try:
            write_all(self.fd, frame)
        except OSError as exc:
            self._cut_off_torn_frame()
            raise unavailable(exc, "appending to the journal") from exc
        self.written += len(frame)
        return self.written

    def _cut_off_torn_frame(self) -> None:
        try:
            os.ftruncate(self.fd, self.written)
        except OSError:
            # Readers stop before the torn frame; what is appended later must go where they can see it.
            self.retired = True

    def close_if_unused(self) -> None:
        """Let go of a retired segment when the last thread has learned its outcome: that frees the writer's lock."""
        if self.retired and not self.users and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class SegmentJournal:
    """ports.Journal on a local directory. One per process; thread-safe.

    `append` raises StorageFull when certainly nothing was appended. After StorageUnavailable the record is in doubt:
    it was not acknowledged, but may be read later, so the object that it names must stay.
    """

    def __init__(self, directory: Path, *, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._changed = threading.Condition()
        self._segment: _Segment | None = None

    def append(self, record: InstanceRecord) -> None:
        """Durable on return; see ports.Journal."""
        frame = encode_frame(record)
        with self._changed:
            segment = self._writable()
            segment.users += 1
            try:
                end = segment.write(frame)
                self._await_sync(segment, end)
            finally:
                segment.users -= 1
                segment.close_if_unused()

    def mark(self) -> JournalMark:
        """The present end of every process's journal; see ports.Journal."""
        with translated("reading the journal's state"):
            return current_mark(self._directory)

    def committed(self, mark: JournalMark) -> bool:
        """Whether everything before the mark is in the index; see ports.Journal."""
        with translated("reading the journal's state"):
            return is_committed(self._directory, mark)

    def close(self) -> None:
        """Let go of the present segment, so that the committer can remove it. A later append opens a new one."""
        with self._changed:
            if self._segment is not None:
                self._segment.retired = True
                self._segment.close_if_unused()
                self._segment = None

    def _writable(self) -> _Segment:
        segment = self._segment
        if segment is not None and segment.written >= self._segment_bytes:
            segment.retired = True
            segment.close_if_unused()
        if segment is None or segment.retired:
            with translated("opening a journal segment"):
                make_directories(self._directory)
                segment = _Segment(self._directory)
                self._segment = segment
                try:
                    fsync_directory(self._directory)
                except OSError:
                    segment.retired = True
                    segment.close_if_unused()
                    raise
        return segment

    def _await_sync(self, segment: _Segment, end: int) -> None:
        """Return when the segment is durable up to `end`; the condition is held on entry and on exit."""
        while segment.synced < end:
            if segment.failure is not None:
                raise StorageUnavailable("the journal could not be synced") from segment.failure
            if segment.syncing:
                self._changed.wait()
            else:
                self._lead_sync(segment)

    def _lead_sync(self, segment: _Segment) -> None:
        target = segment.written
        segment.syncing = True
        self._changed.release()
        failure: OSError | None = None
        try:
            os.fdatasync(segment.fd)
        except OSError as exc:
            failure = exc
        finally:
            self._changed.acquire()
            segment.syncing = False
            self._changed.notify_all()
        if failure is None:
            segment.synced = target
            return
        # The kernel reports a lost page once and then forgets it, so a second sync would prove nothing.
        segment.failure = unavailable(failure, "syncing the journal")
        segment.retired = True
        log.error("journal_segment_failed", segment=segment.path.name, error=failure.strerror)
