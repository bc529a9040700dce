"""The format of the journal: append-only segment files of framed records.

    <directory>/<time>-<pid>-<random>.journal    one per writing process, rotated; locked by its writer
    <directory>/committed.json                   how far each segment is in the index
    <directory>/.committer                       locked by the process that commits
    <directory>/torn/, <directory>/parked/       what a person should look at

A frame is: length of the payload (uint32), CRC-32 of time and payload (uint32), time of the append in nanoseconds since
1970 (uint64), payload (an InstanceRecord as JSON). Everything little endian. What follows the last whole frame was never
acknowledged: frames are synced before anyone is told of them.
"""

import json
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
COMMITTED = "committed.json"

_FRAME = struct.Struct("<IIQ")
_TIME = struct.Struct("<Q")
_LARGEST_PAYLOAD = 64 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a segment, and the offset past it."""

    appended_ns: int
    segment: str
    end: int
    record: InstanceRecord


def encode_frame(record: InstanceRecord) -> bytes:
    """The bytes that are appended for one record."""
    payload = json.dumps(record_to_json(record), separators=(",", ":")).encode()
    now = time.time_ns()
    return _FRAME.pack(len(payload), zlib.crc32(payload, zlib.crc32(_TIME.pack(now))), now) + payload


def read_entries(path: Path, offset: int) -> Iterator[Entry]:
    """The whole records of a segment from an offset on. Ends silently where the next frame is not (yet) whole."""
    with path.open("rb") as stream:
        stream.seek(offset)
        while len(head := stream.read(_FRAME.size)) == _FRAME.size:
            length, crc, appended_ns = _FRAME.unpack(head)
            if length > _LARGEST_PAYLOAD:
                return
            payload = stream.read(length)
            if len(payload) < length or zlib.crc32(payload, zlib.crc32(_TIME.pack(appended_ns))) != crc:
                return
            offset += _FRAME.size + length
            yield Entry(appended_ns, path.name, offset, record_from_json(json.loads(payload)))


def segments(directory: Path) -> list[Path]:
    """Every segment, oldest first."""
    return sorted(path for path in directory.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def created_ns(path: Path) -> int:
    """When a segment was made, by its name, in nanoseconds since 1970; 0 for a name that does not tell."""
    time_of_creation = path.name.split("-", 1)[0]
    return int(time_of_creation) if time_of_creation.isascii() and time_of_creation.isdigit() else 0


def current_mark(directory: Path) -> JournalMark:
    """The present end of every segment."""
    ends = []
    for path in segments(directory):
        try:
            ends.append((path.name, path.stat().st_size))
        except FileNotFoundError:  # removed since it was listed: everything in it is committed
            continue
    return JournalMark(tuple(ends))


def read_committed(directory: Path) -> Mapping[str, int]:
    """How far each segment is in the index.

    A file that cannot be understood counts as "nothing yet": committing again changes nothing.
    """
    try:
        state = json.loads((directory / COMMITTED).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(name): int(end) for name, end in state.items()} if isinstance(state, dict) else {}


def is_committed(directory: Path, mark: JournalMark) -> bool:
    """Whether everything before the mark is in the index."""
    committed = read_committed(directory)
    return all(_is_segment_committed(directory / name, end, committed.get(name, 0)) for name, end in mark.ends)


def _is_segment_committed(path: Path, end: int, committed: int) -> bool:
    if committed >= end:
        return True
    try:
        # A torn append that has been cut off again since the mark was taken was never acknowledged.
        return committed >= min(end, path.stat().st_size)
    except FileNotFoundError:  # segments are removed only when all of them is committed
        return True


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
