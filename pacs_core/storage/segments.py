"""The format of the journal: segment files of framed records, and how far they have been dealt with.

    <directory>/<time>-<pid>-<random>.journal    a segment; locked by its writer, which uses it again and again
    <directory>/progress.json                    how far each is in the index, and how far its objects are synced
    <directory>/.committer                       locked by the process that commits
    <directory>/.hasten                          touched by whoever waits for it
    <directory>/torn/, <directory>/parked/       what a person should look at

A segment begins with a block that names its generation: the time at which its writer began it anew, and a random number.
Frames follow, each at a multiple of the block size, so that no block of an acknowledged frame is ever written again:

    generation (16 bytes), time of the append in nanoseconds since 1970 (uint64), length of the content (uint64),
    length of the record (uint32), CRC-32 of all this and the record (uint32), record (an InstanceRecord as JSON), content

Everything little endian. The content, the whole object where it is small, is written before what precedes it, so that a
frame that can be read is whole; after a crash of the machine the SHA-256 in the record tells. What follows the last frame of
the segment's own generation is left from an earlier one, or was never acknowledged: frames are synced before anyone
is told of them.
"""

import errno
import json
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pacs_core.model import UID, InstanceRecord, Origin
from pacs_core.ports import JournalMark

SUFFIX = ".journal"
PROGRESS = "progress.json"
HASTEN = ".hasten"
_CLOCK_TICK = 0.01  # seconds that the times of files may be behind the clock
BLOCK = 4096

_MAGIC = b"PACSJRN2"
_GENERATION = struct.Struct(">Q8s")  # big endian, so that generations sort by time
_FRAME = struct.Struct("<16sQQII")
_CRC = struct.Struct("<I")
_LARGEST_RECORD = 64 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file, and the generation that it was in when it was looked at ("" before its first)."""

    path: Path
    generation: str

    @property
    def began_ns(self) -> int:
        """When this generation began, in nanoseconds since 1970; nothing in it was appended earlier."""
        return int(self.generation[:16] or "0", 16)


@dataclass(frozen=True, slots=True)
class Content:
    """Where in a segment the bytes of an object are."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes. OSError if they cannot be read."""
        with self.path.open("rb", buffering=0) as stream:
            data = os.pread(stream.fileno(), self.size, self.offset)
        if len(data) != self.size:
            raise OSError(errno.EIO, "the segment is too short")
        return data


@dataclass(frozen=True, slots=True)
class Entry:
    """One frame: its record, its content if it has one, and the offset past it."""

    appended_ns: int
    generation: str
    end: int
    record: InstanceRecord
    content: Content | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one generation of a segment has been dealt with.

    Attributes:
        indexed: every frame before this offset is in the index.
        secured: the objects of all frames before this offset are synced.
    """

    indexed: int = BLOCK
    secured: int = BLOCK

    @property
    def finished(self) -> int:
        """Every frame before this offset is of no use any more."""
        return min(self.indexed, self.secured)


NO_PROGRESS = Progress()


def new_generation() -> bytes:
    """A generation that no segment has had before."""
    return _GENERATION.pack(time.time_ns(), secrets.token_bytes(8))


def encode_head(generation: bytes) -> bytes:
    """The first block of a segment."""
    return (_MAGIC + generation).ljust(BLOCK, b"\0")


def encode_record(record: InstanceRecord) -> bytes:
    """The record of a frame."""
    return json.dumps(record_to_json(record), separators=(",", ":")).encode()


def encode_frame(generation: bytes, payload: bytes, content_size: int = 0) -> bytes:
    """What stands before the content of a frame that is appended now; `payload` is an encoded record."""
    head = _FRAME.pack(generation, time.time_ns(), content_size, len(payload), 0)[: -_CRC.size]
    return head + _CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload


def frame_size(payload_size: int, content_size: int = 0) -> int:
    """The bytes that a frame takes in its segment."""
    return aligned(_FRAME.size + payload_size + content_size)


def aligned(offset: int) -> int:
    """The first multiple of the block size that is not below an offset."""
    return -(-offset // BLOCK) * BLOCK


def read_entries(segment: Segment, offset: int) -> Iterator[Entry]:
    """The frames of a segment from an offset on. Ends silently where the next is not (yet) whole or of another generation."""
    with segment.path.open("rb", buffering=0) as stream:
        fd = stream.fileno()
        if _generation_of(fd) != segment.generation or not segment.generation:
            return
        generation = bytes.fromhex(segment.generation)
        while (frame := _read_frame(fd, offset, generation)) is not None:
            start = offset + _FRAME.size + len(frame.payload)
            offset = aligned(start + frame.content_size)
            content = Content(segment.path, start, frame.content_size) if frame.content_size else None
            yield Entry(frame.appended_ns, segment.generation, offset, record_from_json(json.loads(frame.payload)), content)


def end_of(segment: Segment, offset: int) -> int:
    """The offset past the last frame, counting from a known end of one."""
    with segment.path.open("rb", buffering=0) as stream:
        fd = stream.fileno()
        if _generation_of(fd) != segment.generation or not segment.generation:
            return offset
        generation = bytes.fromhex(segment.generation)
        while (frame := _read_frame(fd, offset, generation)) is not None:
            offset = aligned(offset + _FRAME.size + len(frame.payload) + frame.content_size)
    return offset


def is_torn(segment: Segment, end: int) -> bool:
    """Whether behind the last whole frame there is one that is not: what a crash within an append leaves, or a failing disk.

    A file that does not begin as a segment does, and not with the zeros of one that was never used, counts as torn as a whole.
    """
    with segment.path.open("rb", buffering=0) as stream:
        if not segment.generation:
            return any(os.pread(stream.fileno(), BLOCK, 0))
        return os.pread(stream.fileno(), _GENERATION.size, end) == bytes.fromhex(segment.generation)


@dataclass(frozen=True, slots=True)
class _Frame:
    appended_ns: int
    content_size: int
    payload: bytes


def _read_frame(fd: int, offset: int, generation: bytes) -> _Frame | None:
    """The frame at an offset, without its content; None if there is no whole one of this generation."""
    block = os.pread(fd, BLOCK, offset)
    if len(block) < _FRAME.size:
        return None
    found, appended_ns, content_size, length, crc = _FRAME.unpack_from(block)
    if found != generation or length > _LARGEST_RECORD:
        return None
    payload = block[_FRAME.size : _FRAME.size + length]
    if len(payload) < length:
        payload += os.pread(fd, length - len(payload), offset + len(block))
    if zlib.crc32(payload, zlib.crc32(block[: _FRAME.size - _CRC.size])) != crc:
        return None
    return _Frame(appended_ns, content_size, payload)


def _generation_of(fd: int) -> str:
    head = os.pread(fd, len(_MAGIC) + _GENERATION.size, 0)
    return head[len(_MAGIC) :].hex() if head.startswith(_MAGIC) and len(head) == len(_MAGIC) + _GENERATION.size else ""


def segments(directory: Path) -> list[Segment]:
    """Every segment, in the order in which their generations began. OSError if one cannot be opened."""
    found = []
    for path in directory.glob(f"*{SUFFIX}"):
        try:
            with path.open("rb", buffering=0) as stream:
                found.append(Segment(path, _generation_of(stream.fileno())))
        except FileNotFoundError:  # removed since it was listed: there is nothing to be done in it
            continue
    return sorted(found, key=lambda segment: (segment.generation, segment.path.name))


def hastened_since(directory: Path, when: float) -> bool:
    """Whether somebody has told, since a time in seconds since 1970, that he waits for the committer."""
    try:
        told = (directory / HASTEN).stat().st_mtime
    except OSError:  # nobody has waited yet
        return False
    return when - _CLOCK_TICK < told <= time.time() + _CLOCK_TICK  # what is told of the future was told before the clock was set back


def current_mark(directory: Path) -> JournalMark:
    """The present end of every segment that is not wholly in the index."""
    progress, ends = read_progress(directory), []
    for segment in segments(directory):
        indexed = progress.get(segment.generation, NO_PROGRESS).indexed
        try:
            end = end_of(segment, indexed)
        except FileNotFoundError:
            continue
        if end > indexed:
            ends.append((segment.generation, end))
    return JournalMark(tuple(ends))


def read_progress(directory: Path) -> Mapping[str, Progress]:
    """How far each generation has been dealt with.

    A file that cannot be understood counts as "nothing yet": committing again changes nothing.
    """
    try:
        state = json.loads((directory / PROGRESS).read_bytes())
        return {str(generation): Progress(int(indexed), int(secured)) for generation, (indexed, secured) in state.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def is_committed(directory: Path, mark: JournalMark) -> bool:
    """Whether everything before the mark is in the index."""
    if not mark.ends:
        return True
    progress = read_progress(directory)
    behind = [generation for generation, end in mark.ends if progress.get(generation, NO_PROGRESS).indexed < end]
    # Segments are removed, or begun anew, only when all that they held is in the index.
    return not behind or not {segment.generation for segment in segments(directory)}.intersection(behind)


def record_to_json(record: InstanceRecord) -> dict[str, Any]:
    """An InstanceRecord in the types of JSON."""
    origin = record.origin
    return {
        "SOPInstanceUID": record.SOPInstanceUID,
        "SOPClassUID": record.SOPClassUID,
        "TransferSyntaxUID": record.TransferSyntaxUID,
        "SeriesInstanceUID": record.SeriesInstanceUID,
        "StudyInstanceUID": record.StudyInstanceUID,
        "header": record.header,
        "tier": record.tier,
        "path": record.path,
        "size": record.size,
        "sha256": record.sha256,
        "origin": [origin.source_ae, origin.receiving_ae, origin.received_at.isoformat()],
        "replaces": record.replaces,
    }


def record_from_json(state: Mapping[str, Any]) -> InstanceRecord:
    """The inverse of `record_to_json`."""
    source_ae, receiving_ae, received_at = state["origin"]
    return InstanceRecord(
        SOPInstanceUID=UID(state["SOPInstanceUID"]),
        SOPClassUID=UID(state["SOPClassUID"]),
        TransferSyntaxUID=UID(state["TransferSyntaxUID"]),
        SeriesInstanceUID=UID(state["SeriesInstanceUID"]),
        StudyInstanceUID=UID(state["StudyInstanceUID"]),
        header=state["header"],
        tier=state["tier"],
        path=state["path"],
        size=state["size"],
        sha256=state["sha256"],
        origin=Origin(source_ae, receiving_ae, datetime.fromisoformat(received_at)),
        replaces=state["replaces"],
    )
