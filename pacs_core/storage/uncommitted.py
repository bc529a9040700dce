"""The reader's side of the journal: what is waiting for the index. Never in the way of the writers."""

import fcntl
import heapq
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from pacs_core.model import InstanceRecord
from pacs_core.ports import JournalMark
from pacs_core.storage.files import abandoned, fsync_directory, make_directories, translated, try_lock, unique_name, write_atomically
from pacs_core.storage.segments import COMMITTED, Entry, read_committed, read_entries, record_to_json, segments

log = structlog.get_logger(__name__)


class JournalReader:
    """ports.Uncommitted on the directory that `SegmentJournal` writes to. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

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
                self._tidy(read_committed(self._directory))
            try:
                yield True
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def pending(self, limit: int) -> tuple[Sequence[InstanceRecord], JournalMark]:
        """The oldest uncommitted records; see ports.Uncommitted."""
        with translated("reading the journal"):
            committed = read_committed(self._directory)
            streams = [read_entries(path, committed.get(path.name, 0)) for path in segments(self._directory)]
            records: list[InstanceRecord] = []
            ends: dict[str, int] = {}
            # Within a segment the order of the file wins over the clock, because an end covers all before it.
            for entry in heapq.merge(*streams, key=_age):
                records.append(entry.record)
                ends[entry.segment] = entry.end
                if len(records) >= limit:
                    break
            if not records:
                self._tidy(committed)
        return records, JournalMark(tuple(ends.items()))

    def done(self, mark: JournalMark) -> None:
        """Remember what is in the index; see ports.Uncommitted."""
        with translated("remembering what is indexed"):
            committed = dict(read_committed(self._directory))
            for name, end in mark.ends:
                committed[name] = max(end, committed.get(name, 0))
            present = {path.name for path in segments(self._directory)}
            state = {name: end for name, end in committed.items() if name in present}
            write_atomically(self._directory / COMMITTED, json.dumps(state).encode())
            self._tidy(state)

    def park(self, record: InstanceRecord, *, reason: str) -> str:
        """Keep a record aside; see ports.Uncommitted."""
        path = self._directory / "parked" / f"{unique_name()}.json"
        with translated("parking a journal record"):
            make_directories(path.parent)
            write_atomically(path, json.dumps({"reason": reason, "record": record_to_json(record)}, indent=2).encode())
        return str(path)

    def _tidy(self, committed: Mapping[str, int]) -> None:
        """Remove the segments that are wholly indexed and that nobody will append to."""
        for path in segments(self._directory):
            with abandoned(path) as is_abandoned:
                if is_abandoned:
                    self._retire(path, committed.get(path.name, 0))

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


def _age(entry: Entry) -> int:
    return entry.appended_ns
