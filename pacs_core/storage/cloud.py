"""What object stores behind HTTP have in common: ranges, parts, time-outs, and that nothing is believed that is not verified.

The requests of a tier are coroutines on fsspec's one event loop; files are read and written by the thread that asked.
"""

import asyncio
import io
import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog
from typing_extensions import Buffer

from pacs_core.errors import PacsError, StorageUnavailable
from pacs_core.model import Availability
from pacs_core.storage.remote import OpenObject
from pacs_core.storage.transfers import Source, digest_of

T = TypeVar("T")

log = structlog.get_logger(__name__)

_FIRST_READ = 1 << 20  # of an open object: all of a small one
_NEXT_READ = 8 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of an object."""

    data: bytes
    total: int  # the size of the whole
    etag: str  # tells one content of a name from another


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the other side has."""

    name: str
    md5: bytes


class Container(Protocol):
    """The requests of one kind of object store, each of them one round trip. A key is a bucket, "/" and a name."""

    foreign: tuple[type[Exception], ...]
    part_size: int
    max_parts: int

    def explain(self, exc: Exception, doing: str) -> PacsError:
        """See remote.Objects."""

    async def get(self, key: str, start: int, length: int, etag: str) -> Piece:
        """So much of an object, or what there is of it; of the content with that etag, unless it is empty."""

    def put_here(self, key: str, data: bytes) -> bool | None:
        """As `put`, in the calling thread and for less; None if nothing was stored, or if that cannot be told."""

    async def put(self, key: str, data: bytes, sha256: str) -> bool:
        """Store an object; whether the other side's checksum of what it has agrees. False also where it tells none."""

    async def begin(self, key: str) -> str:
        """Begin an object in parts; returns what its parts are to name."""

    async def put_part(self, key: str, upload: str, number: int, data: bytes) -> Part:
        """Send the part with that number, from 1."""

    async def complete(self, key: str, upload: str, parts: list[Part]) -> bool:
        """Make the parts the object; whether the other side's checksum agrees."""

    async def abort(self, key: str, upload: str) -> None:
        """Forget the parts."""

    async def availability(self, key: str) -> Availability:
        """Whether an object can be read."""

    async def rehydrate(self, key: str) -> None:
        """Ask for an object that is archived and has not been asked for."""

    async def delete(self, key: str) -> None:
        """Remove."""

    async def page(self, prefix: str, token: str) -> tuple[list[tuple[str, int]], str]:
        """Some keys that begin so, with their sizes, and what to ask for the next page with: empty after the last."""


class Requests:
    """Runs requests from many threads on one event loop, so many at once, each within a time.

    A request that waits for its turn is not on its way yet, so that the time-out is the server's and not the queue's.
    """

    def __init__(self, loop: AbstractEventLoop, *, concurrency: int, timeout: float) -> None:
        self.concurrency = concurrency
        self._loop = loop
        self._timeout = timeout
        self._slots = threading.Semaphore(concurrency)

    def run(self, request: Coroutine[Any, Any, T]) -> T:
        """The answer to one request."""
        return self._submit(request).result()

    def slot(self) -> AbstractContextManager[object]:
        """For a request that its thread makes itself."""
        return self._slots

    def in_order(self, requests: Iterable[Coroutine[Any, Any, T]]) -> Iterator[T]:
        """The answers in the order of the requests, while those after them are on their way already.

        When it ends, also with an error, no request is on its way any more.
        """
        sent: deque[Future[T]] = deque()
        try:
            for request in requests:
                sent.append(self._submit(request))
                while sent and (len(sent) >= self.concurrency or sent[0].done()):
                    yield sent.popleft().result()
            while sent:
                yield sent.popleft().result()
        finally:
            wait(sent)

    def _submit(self, request: Coroutine[Any, Any, T]) -> "Future[T]":
        self._slots.acquire()
        future = asyncio.run_coroutine_threadsafe(self._in_time(request), self._loop)
        future.add_done_callback(lambda _: self._slots.release())
        return future

    async def _in_time(self, request: Coroutine[Any, Any, T]) -> T:
        async with asyncio.timeout(self._timeout):
            return await request


class CloudObjects:
    """remote.Objects on an object store."""

    def __init__(self, container: Container, requests: Requests, *, threshold: int) -> None:
        self.foreign = container.foreign
        self._failures: tuple[type[Exception], ...] = (OSError, *container.foreign)
        self._container = container
        self._requests = requests
        self._threshold = threshold

    def explain(self, exc: Exception, doing: str) -> PacsError:
        """See remote.Objects."""
        return self._container.explain(exc, doing)

    def open(self, key: str) -> OpenObject:
        """One request, and one more for each range that is read of a large object; see remote.Objects."""
        first = self._piece(key, 0, _FIRST_READ)
        return _Reader(self, key, first)

    def read(self, key: str) -> Iterator[bytes]:
        """Parts of a large object come in parallel; see remote.Objects."""
        size = self._container.part_size
        first = self._piece(key, 0, size)
        yield first.data
        rest = (self._container.get(key, start, size, first.etag) for start in range(len(first.data), first.total, size))
        for piece in self._requests.in_order(rest):
            yield piece.data

    def put(self, key: str, source: Source) -> None:
        """See remote.Objects.

        What is stored and turns out to be wrong is left: the name may have been given to another writer's object meanwhile.
        """
        verified = self._put_whole(key, source) if source.size <= self._threshold else self._put_parts(key, source)
        if verified:
            return
        try:
            found = digest_of(self.read(key))
        except self._failures as exc:
            raise StorageUnavailable(f"{key} was stored, but could not be read back to verify it ({type(exc).__name__})") from exc
        if found != source.sha256:
            raise StorageUnavailable(f"{key} was read back with other bytes than were sent")

    def exists(self, key: str) -> bool:
        """See remote.Objects."""
        try:
            self._requests.run(self._container.availability(key))
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """See remote.Objects."""
        self._requests.run(self._container.delete(key))

    def list(self, root: str, prefix: str) -> Iterator[tuple[str, int]]:
        """See remote.Objects."""
        token = ""
        while True:
            entries, token = self._requests.run(self._container.page(f"{root}/{prefix}", token))
            yield from entries
            if not token:
                return

    def availability(self, key: str) -> Availability:
        """See remote.Objects."""
        return self._requests.run(self._container.availability(key))

    def rehydrate(self, key: str) -> None:
        """See remote.Objects."""
        if self.availability(key) is Availability.ARCHIVED:
            self._requests.run(self._container.rehydrate(key))

    def _piece(self, key: str, start: int, length: int, etag: str = "") -> Piece:
        return self._requests.run(self._container.get(key, start, length, etag))

    def _put_whole(self, key: str, source: Source) -> bool:
        data = source.read()
        source.check()
        with self._requests.slot():
            verified = self._container.put_here(key, data)
        if verified is None:
            verified = self._requests.run(self._container.put(key, data, source.sha256))
        source.sent(len(data))
        return verified

    def _put_parts(self, key: str, source: Source) -> bool:
        upload = self._requests.run(self._container.begin(key))
        try:
            parts = list(self._send(key, upload, source))
            source.check()
            return self._requests.run(self._container.complete(key, upload, parts))
        except BaseException:
            self._abort(key, upload)
            raise

    def _send(self, key: str, upload: str, source: Source) -> Iterator[Part]:
        size = max(self._container.part_size, -(-source.size // self._container.max_parts))
        sizes: deque[int] = deque()

        def parts() -> Iterator[Coroutine[Any, Any, Part]]:
            number = 0
            while data := source.read(size):
                number += 1
                sizes.append(len(data))
                yield self._container.put_part(key, upload, number, data)

        for part in self._requests.in_order(parts()):
            source.sent(sizes.popleft())
            yield part

    def _abort(self, key: str, upload: str) -> None:
        """Best effort: what failed may be the very server that is told to forget."""
        try:
            self._requests.run(self._container.abort(key, upload))
        except self._failures as exc:
            log.warning("upload_not_aborted", key=key, error=type(exc).__name__)


class _Reader:
    """An open object, read range by range. Not thread-safe."""

    def __init__(self, objects: CloudObjects, key: str, first: Piece) -> None:
        self._objects = objects
        self._key = key
        self._total, self._etag = first.total, first.etag
        self._data, self._start = first.data, 0
        self._position = 0

    def readinto(self, buffer: Buffer) -> int:
        """See io.RawIOBase."""
        if self._position >= self._total:
            return 0
        if not self._start <= self._position < self._start + len(self._data):
            piece = self._objects._piece(self._key, self._position, _NEXT_READ, self._etag)
            self._data, self._start = piece.data, self._position
        offset = self._position - self._start
        view = memoryview(buffer).cast("B")
        data = memoryview(self._data)[offset : offset + len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """See io.IOBase."""
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._total}[whence])
        return self._position

    def tell(self) -> int:
        """See io.IOBase."""
        return self._position

    def close(self) -> None:
        """No connection is held."""
        self._data = b""
