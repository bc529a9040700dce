"""The segments that one process appends to: one that is being written, and preallocated ones that are used again and again.

A sync of blocks that exist already is one write to the disk; a file that grows costs the file system a transaction
of its own each time. So content goes into preallocated segments only, and there are at most so many of them.
"""

import os
import threading
from pathlib import Path

import structlog
from typing_extensions import Buffer

from pacs_core.errors import UnavailableError
from pacs_core.storage.files import create_locked, fsync_directory, make_directories, translated, unavailable, write_all, write_all_at
from pacs_core.storage.segments import BLOCK, NO_PROGRESS, SUFFIX, encode_frame, encode_head, frame_size, new_generation, read_progress

log = structlog.get_logger(__name__)

PREALLOCATED_BYTES = 16 << 20
_SPARES = 4
_LARGEST_SHARE = 8  # of the file system, as its divisor
_FREE_SHARE = 10  # of it is left to others
_MODE = 0o640
_ZEROES = bytes(1 << 20)


class WritableSegment:
    """A segment that this process has the lock of. Not thread-safe.

    Attributes:
        written: end of the last whole frame.
        synced: end of the last frame that is durable.
        syncing: a thread is syncing it.
        users: threads between writing and knowing the outcome.
        retired: takes no further appends.
        failure: why it could not be synced; what is behind `synced` is in doubt for ever.
    """

    def __init__(self, directory: Path, *, capacity: int = 0) -> None:
        """`capacity`: bytes to preallocate; 0 for a segment that grows. OSError, or StorageFull."""
        self.path, self.fd = create_locked(directory, suffix=SUFFIX, flags=os.O_RDWR, mode=_MODE)
        self.capacity = capacity
        try:
            for _ in range(0, capacity, len(_ZEROES)):
                write_all(self.fd, _ZEROES)
            if capacity:
                os.fdatasync(self.fd)
            fsync_directory(directory)
        except OSError:
            self.remove()
            raise
        self.begin()

    def begin(self) -> None:
        """Begin a new generation; it becomes durable with its first frame."""
        self.generation = new_generation()
        self.written = self.synced = BLOCK
        self.syncing = self.retired = self._begun = False
        self.users = 0
        self.failure: UnavailableError | None = None

    def has_room_for(self, payload_size: int, content_size: int = 0) -> bool:
        """Whether a frame fits into what is preallocated."""
        return not self.retired and self.written + frame_size(payload_size, content_size) <= self.capacity

    def write(self, payload: bytes, content: Buffer | None) -> int:
        """Append a frame whole or, visibly to no one, not at all; returns the offset past it."""
        size = 0 if content is None else memoryview(content).nbytes
        head = encode_frame(self.generation, payload, size)
        try:
            if not self._begun:
                write_all_at(self.fd, encode_head(self.generation), 0)
                self._begun = True
            if content is not None:
                write_all_at(self.fd, content, self.written + len(head))
            write_all_at(self.fd, head, self.written)  # last, because it is what readers look for
        except OSError as exc:
            raise unavailable(exc, "appending to the journal") from exc
        self.written += frame_size(len(payload), size)
        return self.written

    def close(self) -> None:
        """Let go of it, so that the committer can remove it. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        """Remove a segment that nothing was written to."""
        self.path.unlink(missing_ok=True)
        self.close()


class SegmentPool:
    """Preallocated segments: spares, made in the background, and spent ones, which are begun anew once they are dealt with.

    Thread-safe. A disk that is full, or too small, means a pool with fewer or none.
    """

    def __init__(self, directory: Path, *, limit_bytes: int) -> None:
        """`limit_bytes`: of all preallocated segments together; 0 for none at all."""
        self._directory = directory
        self._limit = limit_bytes // PREALLOCATED_BYTES
        self._lock = threading.Lock()
        self._spares: list[WritableSegment] = []
        self._spent: list[WritableSegment] = []
        self._made = 0
        self._wanted = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="journal-pool", daemon=True)

    def start(self) -> None:
        """Begin to make spares."""
        if self._limit:
            self._wanted.set()
            self._thread.start()

    def take(self) -> WritableSegment | None:
        """A segment to be written from its beginning, or None if there is none for now."""
        with self._lock:
            segment = self._take_spent() or (self._spares.pop() if self._spares else None)
            self._wanted.set()
        return segment

    def give_back(self, segment: WritableSegment) -> None:
        """Keep a full segment until the committer has dealt with it."""
        with self._lock:
            if self._closed or segment.failure is not None:
                self._made -= 1
                segment.close()
            else:
                self._spent.append(segment)

    def close(self) -> None:
        """Let go of everything, for the committer to deal with or remove. Waits for nothing: the archive is stopping."""
        with self._lock:
            self._closed = True
            for segment in (*self._spares, *self._spent):
                segment.close()
            self._spares, self._spent = [], []
        self._wanted.set()

    def _take_spent(self) -> WritableSegment | None:
        if not self._spent:
            return None
        progress = read_progress(self._directory)
        for segment in self._spent:
            if progress.get(segment.generation.hex(), NO_PROGRESS).finished >= segment.written:
                self._spent.remove(segment)
                segment.begin()
                return segment
        return None

    def _run(self) -> None:
        """A process boundary: without spares, objects are synced one by one, which is slower and as safe."""
        while not self._closed:
            self._wanted.wait()
            self._wanted.clear()
            try:
                with translated("preallocating the journal"):
                    self._make_spares()
            except UnavailableError as exc:
                log.warning("journal_not_preallocated", reason=str(exc))
            except Exception:
                log.exception("journal_pool_failed")

    def _make_spares(self) -> None:
        make_directories(self._directory)
        while not self._closed and len(self._spares) < _SPARES and self._made < self._limit and self._has_disk():
            segment = WritableSegment(self._directory, capacity=PREALLOCATED_BYTES)
            with self._lock:
                if self._closed:
                    segment.close()
                    return
                self._made += 1
                self._spares.append(segment)

    def _has_disk(self) -> bool:
        status = os.statvfs(self._directory)
        size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
        return (self._made + 1) * PREALLOCATED_BYTES <= size // _LARGEST_SHARE and free - PREALLOCATED_BYTES >= size // _FREE_SHARE
