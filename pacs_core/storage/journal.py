"""The writer's side of the journal: what is acknowledged but not yet dealt with, durable before anyone is told.

Threads that append at the same time share one sync: the first to need one syncs for all whose bytes are written by
then (leader), the others wait for the result (followers).
"""

import os
import threading
from pathlib import Path

import structlog
from typing_extensions import Buffer

from pacs_core.errors import StorageUnavailable
from pacs_core.model import InstanceRecord
from pacs_core.ports import JournalMark
from pacs_core.storage.files import make_directories, translated, unavailable
from pacs_core.storage.segments import HASTEN, current_mark, encode_record, hastened_since, is_committed
from pacs_core.storage.writing import SegmentPool, WritableSegment

log = structlog.get_logger(__name__)

_SEGMENT_BYTES = 4 << 20


class SegmentJournal:
    """ports.Journal on a local directory. One per process; thread-safe.

    `append` raises StorageFull when certainly nothing was appended. After StorageUnavailable the record is in doubt:
    it was not acknowledged, but may be read later, so the object that it names must stay.

    Args:
        directory: shared by all processes of a home.
        segment_bytes: a segment of records alone is given up for a new one at this size.
        content_bytes: preallocated for content; without it none is taken.
    """

    def __init__(self, directory: Path, *, segment_bytes: int = _SEGMENT_BYTES, content_bytes: int = 0) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._changed = threading.Condition()
        self._segment: WritableSegment | None = None
        self._pool = SegmentPool(directory, limit_bytes=content_bytes)
        self._pool.start()

    def append(self, record: InstanceRecord, content: Buffer | None = None) -> bool:
        """Durable on return; see ports.Journal."""
        payload = encode_record(record)
        with self._changed:
            segment = self._for_record(len(payload)) if content is None else self._for_content(len(payload), memoryview(content).nbytes)
            if segment is None:
                return False
            segment.users += 1
            try:
                self._await_sync(segment, segment.write(payload, content))
            finally:
                segment.users -= 1
                self._let_go_if_unused(segment)
        return True

    def mark(self) -> JournalMark:
        """The present end of every process's journal; see ports.Journal."""
        with translated("reading the journal's state"):
            return current_mark(self._directory)

    def committed(self, mark: JournalMark) -> bool:
        """Whether everything before the mark is in the index; see ports.Journal."""
        with translated("reading the journal's state"):
            return is_committed(self._directory, mark)

    def hasten(self) -> None:
        """Tell the committer that somebody waits; see ports.Journal."""
        with translated("hastening the committer"):
            (self._directory / HASTEN).touch()

    def hastened_since(self, when: float) -> bool:
        """Whether somebody waits; see ports.Journal."""
        return hastened_since(self._directory, when)

    def close(self) -> None:
        """Let go of all segments, so that the committer can remove them. A later append opens a new one."""
        with self._changed:
            self._retire()
        self._pool.close()

    def _for_content(self, payload_size: int, content_size: int) -> WritableSegment | None:
        """A preallocated segment with room, or None."""
        segment = self._segment
        if segment is None or not segment.has_room_for(payload_size, content_size):
            if segment is not None and segment.capacity:
                self._retire()  # it may be the next to be begun anew
            segment = self._pool.take()
            if segment is not None:
                self._retire()
                self._segment = segment
        return segment

    def _for_record(self, payload_size: int) -> WritableSegment:
        """Any segment: a record alone is never turned away but by a full disk."""
        segment = self._segment
        if segment is None or not (segment.has_room_for(payload_size) if segment.capacity else self._may_grow(segment)):
            self._retire()
            with translated("opening a journal segment"):
                make_directories(self._directory)
                self._segment = segment = self._pool.take() or WritableSegment(self._directory)
        return segment

    def _may_grow(self, segment: WritableSegment) -> bool:
        return not segment.retired and segment.written < self._segment_bytes

    def _retire(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.retired = True
            self._let_go_if_unused(segment)

    def _let_go_if_unused(self, segment: WritableSegment) -> None:
        """Let go of a retired segment when the last thread has learned its outcome: that frees the writer's lock."""
        if segment.retired and not segment.users and segment is not self._segment and segment.fd >= 0:
            if segment.capacity:
                self._pool.give_back(segment)
            else:
                segment.close()

    def _await_sync(self, segment: WritableSegment, end: int) -> None:
        """Return when the segment is durable up to `end`; the condition is held on entry and on exit."""
        while segment.synced < end:
            if segment.failure is not None:
                raise StorageUnavailable("the journal could not be synced") from segment.failure
            if segment.syncing:
                self._changed.wait()
            else:
                self._lead_sync(segment)

    def _lead_sync(self, segment: WritableSegment) -> None:
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
        if self._segment is segment:
            self._segment = None
        log.error("journal_segment_failed", segment=segment.path.name, error=failure.strerror)
