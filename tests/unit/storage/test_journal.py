import errno
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.errors import StorageFull, StorageUnavailable
from pacs_core.model import UID, InstanceRecord, Origin
from pacs_core.ports import Journalled, JournalMark
from pacs_core.storage import uncommitted, writing
from pacs_core.storage.journal import SegmentJournal
from pacs_core.storage.segments import (
    BLOCK,
    Entry,
    Segment,
    encode_frame,
    encode_record,
    end_of,
    read_entries,
    record_from_json,
    record_to_json,
    segments,
)
from pacs_core.storage.uncommitted import JournalReader
from tests.support.waiting import eventually

RECORD = InstanceRecord(
    SOPInstanceUID=UID("1.4"),
    SOPClassUID=UID("1.2.840.10008.5.1.4.1.1.2"),
    TransferSyntaxUID=UID("1.2.840.10008.1.2"),
    SeriesInstanceUID=UID("1.3"),
    StudyInstanceUID=UID("1.2"),
    header={"PatientName": "Müller^Jürgen=山田", "ProcedureCodeSequence": [{"CodeValue": "X"}]},
    tier="hot",
    path="1.2/1.3/1.4.dcm",
    size=10,
    sha256="0" * 64,
    origin=Origin("CT1", "PACS", datetime(2024, 2, 29, 12, tzinfo=UTC)),
)


def record(number: int) -> InstanceRecord:
    return replace(RECORD, SOPInstanceUID=UID(f"1.4.{number}"))


def numbers(found: Sequence[Journalled]) -> list[int]:
    return [int(entry.record.SOPInstanceUID.rsplit(".", 1)[1]) for entry in found]


def finish(reader: JournalReader, mark: JournalMark) -> None:
    reader.done(mark)
    reader.secured(mark)


def fail_io(fd: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


@given(st.text(), st.text(), st.datetimes(timezones=st.just(UTC)), st.booleans())
def test_a_record_survives_the_journal_unchanged(name: str, path: str, received_at: datetime, replaces: bool) -> None:
    made = replace(RECORD, header={"PatientName": name}, path=path, origin=Origin("A", "B", received_at), replaces=replaces)
    assert record_from_json(record_to_json(made)) == made


def test_what_is_appended_is_pending_until_it_is_done(tmp_path: Path) -> None:
    journal, reader = SegmentJournal(tmp_path), JournalReader(tmp_path)
    for number in range(5):
        journal.append(record(number))
    everything = journal.mark()
    assert not journal.committed(everything)
    first, mark = reader.pending(2)
    assert numbers(first) == [0, 1]
    reader.done(mark)
    reader.done(mark)
    assert not journal.committed(everything)
    rest, mark = reader.pending(100)
    assert numbers(rest) == [2, 3, 4]
    reader.done(mark)
    assert reader.pending(100)[0] == []
    assert journal.committed(everything)
    assert journal.committed(journal.mark())


def test_the_committer_is_told_that_somebody_waits(tmp_path: Path) -> None:
    journal, reader = SegmentJournal(tmp_path), JournalReader(tmp_path)
    assert not reader.hastened_since(0)
    journal.hasten()
    assert reader.hastened_since(time.time() - 10)
    assert not reader.hastened_since(time.time() + 10)


def test_an_idle_journal_is_committed(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path / "journal")
    assert journal.committed(journal.mark())
    assert JournalReader(tmp_path / "journal").pending(10)[0] == []


def test_a_new_reader_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path)
    journal.append(record(0))
    reader = JournalReader(tmp_path)
    reader.done(reader.pending(10)[1])
    journal.append(record(1))
    assert numbers(JournalReader(tmp_path).pending(10)[0]) == [1]


def test_records_of_all_segments_come_oldest_first(tmp_path: Path) -> None:
    journals = [SegmentJournal(tmp_path), SegmentJournal(tmp_path), SegmentJournal(tmp_path, segment_bytes=1)]
    for number in range(12):
        journals[number % 3].append(record(number))
    assert len(segments(tmp_path)) == 6
    assert numbers(JournalReader(tmp_path).pending(100)[0]) == list(range(12))


def test_segments_are_removed_once_they_are_dealt_with_and_nobody_appends_to_them(tmp_path: Path) -> None:
    journal, reader = SegmentJournal(tmp_path, segment_bytes=1), JournalReader(tmp_path)
    for number in range(3):
        journal.append(record(number))
    mark = journal.mark()
    reader.done(mark)
    assert len(segments(tmp_path)) == 3
    assert journal.committed(mark)
    reader.secured(mark)
    assert len(segments(tmp_path)) == 1
    assert journal.committed(mark)
    journal.close()
    with reader.exclusive():
        assert segments(tmp_path) == []
    journal.append(record(3))
    assert numbers(reader.pending(10)[0]) == [3]


def test_many_threads_share_syncs_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = SegmentJournal(tmp_path)
    syncs: list[int] = []
    real = os.fdatasync

    def slow(fd: int) -> None:
        syncs.append(fd)
        time.sleep(0.002)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)

    def append_ten(first: int) -> None:
        for number in range(first, first + 10):
            journal.append(record(number))

    threads = [threading.Thread(target=append_ten, args=(first,)) for first in range(0, 160, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(JournalReader(tmp_path).pending(1000)[0])) == list(range(160))
    assert len(syncs) < 160


def append_bytes(segment: Segment, data: bytes) -> None:
    """Write behind the last frame of a segment."""
    with segment.path.open("r+b") as stream:
        stream.seek(end_of(segment, BLOCK))
        stream.write(data)


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_a_torn_tail_is_ignored_and_kept_for_a_person(tmp_path: Path, cut: int) -> None:
    journal, reader = SegmentJournal(tmp_path), JournalReader(tmp_path)
    journal.append(record(0))
    journal.close()
    [segment] = segments(tmp_path)
    append_bytes(segment, encode_frame(bytes.fromhex(segment.generation), encode_record(record(1)))[:-cut])
    mark = journal.mark()
    records, done = reader.pending(10)
    assert numbers(records) == [0]
    finish(reader, done)
    assert segments(tmp_path) == []
    assert journal.committed(mark)
    assert [path.name for path in (tmp_path / "torn").iterdir()] == [segment.path.name]


def test_what_is_no_segment_of_this_format_is_kept_for_a_person(tmp_path: Path) -> None:
    (tmp_path / "0-1-a.journal").write_bytes(b"something else")
    (tmp_path / "0-1-b.journal").write_bytes(bytes(2 * BLOCK))
    with JournalReader(tmp_path).exclusive():
        assert segments(tmp_path) == []
    assert [path.name for path in (tmp_path / "torn").iterdir()] == ["0-1-a.journal"]


def test_a_flipped_bit_ends_a_segment_before_the_damage(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path)
    journal.append(record(0))
    journal.append(record(1))
    [segment] = segments(tmp_path)
    content = bytearray(segment.path.read_bytes())
    content[-5] ^= 1
    segment.path.write_bytes(content)
    assert numbers(JournalReader(tmp_path).pending(10)[0]) == [0]


def test_after_a_failed_sync_nothing_in_doubt_is_acknowledged_and_appends_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SegmentJournal(tmp_path)
    journal.append(record(0))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail_io)
        with pytest.raises(StorageUnavailable):
            journal.append(record(1))
    journal.append(record(2))
    assert len(segments(tmp_path)) == 2
    assert {0, 2} <= set(numbers(JournalReader(tmp_path).pending(10)[0]))


def append_until_full(journal: SegmentJournal, made: InstanceRecord) -> int:
    for acknowledged in range(100):
        try:
            journal.append(made)
        except StorageFull:
            return acknowledged
    return 100


def test_a_full_disk_is_told_and_what_was_acknowledged_stays_readable(small_disk: Path) -> None:
    journal, reader = SegmentJournal(small_disk / "journal"), JournalReader(small_disk / "journal")
    big = replace(RECORD, header={"PatientComments": "x" * 100_000})
    acknowledged = append_until_full(journal, big)
    assert 0 < acknowledged < 100
    assert len(reader.pending(1000)[0]) == acknowledged
    journal.append(RECORD)  # a small one still fits behind what was cut off
    assert len(reader.pending(1000)[0]) == acknowledged + 1


def test_only_one_process_is_the_committer(tmp_path: Path) -> None:
    with JournalReader(tmp_path).exclusive() as first:
        assert first
        with JournalReader(tmp_path).exclusive() as second:
            assert not second
    with JournalReader(tmp_path).exclusive() as third:
        assert third


def test_a_state_file_that_cannot_be_read_counts_as_nothing_done(tmp_path: Path) -> None:
    journal, reader = SegmentJournal(tmp_path), JournalReader(tmp_path)
    journal.append(record(0))
    reader.done(reader.pending(10)[1])
    (tmp_path / "progress.json").write_bytes(b"\0\0\0")
    assert numbers(reader.pending(10)[0]) == [0]


def test_a_parked_record_is_kept_with_its_reason(tmp_path: Path) -> None:
    where = Path(JournalReader(tmp_path).park(record(7), reason="no such column"))
    assert "1.4.7" in where.read_text()
    assert "no such column" in where.read_text()


WRITER = """
import sys
from pathlib import Path
from tests.unit.storage.test_journal import record
from pacs_core.storage.journal import SegmentJournal
journal = SegmentJournal(Path(sys.argv[1]))
number = 0
while True:
    journal.append(record(number))
    print(number, flush=True)
    number += 1
"""


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    ) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            writer.stdout.readline()
        writer.kill()
        acknowledged = 50 + len(writer.stdout.read().splitlines())
    found = numbers(JournalReader(tmp_path).pending(100_000)[0])
    assert found[:acknowledged] == list(range(acknowledged))
    assert len(found) <= acknowledged + 1


def test_what_is_appended_while_the_journal_is_read_never_overtakes_what_was_appended_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, later = SegmentJournal(tmp_path), SegmentJournal(tmp_path)
    earlier.append(record(0))
    later.append(record(1))
    reader = JournalReader(tmp_path)
    first, _ = segments(tmp_path)

    def interrupted(segment: Segment, offset: int) -> Iterator[Entry]:
        yield from read_entries(segment, offset)
        if segment == first:  # it has been read to its end, the other has not
            earlier.append(record(2))
            later.append(record(3))

    with monkeypatch.context() as busy:
        busy.setattr(uncommitted, "read_entries", interrupted)
        records, mark = reader.pending(100)
    assert numbers(records) == [0, 1]
    reader.done(mark)
    assert numbers(reader.pending(100)[0]) == [2, 3]


def test_what_was_appended_before_the_clock_was_set_back_is_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SegmentJournal(tmp_path).append(record(0))
    an_hour_before = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_before)
    assert numbers(JournalReader(tmp_path).pending(10)[0]) == [0]


def test_a_backlog_takes_few_descriptors_and_is_worked_off_in_order(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path, segment_bytes=1)
    for number in range(200):
        journal.append(record(number))
    journal.close()
    assert len(segments(tmp_path)) == 200
    reader = JournalReader(tmp_path)
    found: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, limits[1]))
    try:
        while len(found) < 200:
            records, mark = reader.pending(30)
            found += numbers(records)
            finish(reader, mark)
            assert len(segments(tmp_path)) == 200 - len(found)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found == list(range(200))


def test_working_off_a_backlog_looks_only_at_what_it_has_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = SegmentJournal(tmp_path, segment_bytes=1)
    for number in range(50):
        journal.append(record(number))
    journal.close()
    opened: list[str] = []

    def counted(segment: Segment, offset: int) -> Iterator[Entry]:
        opened.append(segment.generation)
        yield from read_entries(segment, offset)

    monkeypatch.setattr(uncommitted, "read_entries", counted)
    reader = JournalReader(tmp_path)
    reader.done(reader.pending(5)[1])
    assert len(opened) <= 12


def test_a_segment_that_cannot_be_read_keeps_no_other_from_being_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        journal = SegmentJournal(tmp_path)
        journal.append(record(number))
        journal.close()
    damaged = segments(tmp_path)[1]

    def failing(segment: Segment, offset: int) -> Iterator[Entry]:
        if segment == damaged:
            raise OSError(errno.EIO, "Input/output error")
        yield from read_entries(segment, offset)

    reader = JournalReader(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(uncommitted, "read_entries", failing)
        records, mark = reader.pending(10)
        assert numbers(records) == [0, 2]
        finish(reader, mark)
        assert reader.pending(10)[0] == []
        with reader.exclusive() as is_leader:
            assert is_leader
    assert segments(tmp_path) == [damaged]
    assert numbers(reader.pending(10)[0]) == [1]


_PREALLOCATED = 2 << 20


@pytest.fixture
def pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmentJournal]:
    """A journal with one preallocated segment."""
    monkeypatch.setattr(writing, "PREALLOCATED_BYTES", _PREALLOCATED)
    journal = SegmentJournal(tmp_path, content_bytes=_PREALLOCATED)
    eventually(lambda: segments(tmp_path), what="a preallocated segment")
    yield journal
    journal.close()


def test_content_is_kept_with_its_record_until_its_object_is_secured(tmp_path: Path, pooled: SegmentJournal) -> None:
    reader = JournalReader(tmp_path)
    assert eventually(lambda: pooled.append(record(0), b"the whole object"))
    pooled.append(record(1))
    assert reader.unsecured(10)[0] == []
    reader.done(reader.pending(1)[1])
    (first,), mark = reader.unsecured(10)
    assert first.content is not None
    assert (first.record, first.content.read()) == (record(0), b"the whole object")
    reader.secured(mark)
    assert reader.unsecured(10)[0] == []
    (second,), mark = reader.pending(10)
    assert (second.record, second.content) == (record(1), None)


def test_a_full_segment_is_begun_anew_once_it_is_dealt_with(tmp_path: Path, pooled: SegmentJournal) -> None:
    reader, content = JournalReader(tmp_path), bytes(1 << 18)
    assert eventually(lambda: pooled.append(record(0), content))
    taken = 1
    while pooled.append(record(taken), content):
        taken += 1
    assert taken == _PREALLOCATED // len(content) - 1
    pooled.append(record(taken))  # a record alone is taken all the same
    mark = pooled.mark()
    assert len(reader.pending(100)[0]) == taken + 1
    reader.done(mark)
    assert not pooled.append(record(50), content)
    reader.secured(mark)
    assert pooled.append(record(51), content)
    assert pooled.committed(mark)
    assert numbers(reader.pending(100)[0]) == [51]
    assert {path.name for path in tmp_path.glob("*.journal")} == {segment.path.name for segment in segments(tmp_path)}


def test_what_an_earlier_generation_left_in_a_segment_is_not_read(tmp_path: Path, pooled: SegmentJournal) -> None:
    """Frames of both generations are of one size, so that those of the earlier stand exactly where the next would."""
    reader, content = JournalReader(tmp_path), bytes((1 << 18) - 1)
    assert eventually(lambda: pooled.append(record(0), content))
    while pooled.append(record(1), content):
        pass
    finish(reader, pooled.mark())
    assert pooled.append(record(2), content)
    assert numbers(JournalReader(tmp_path).pending(100)[0]) == [2]


def test_a_journal_without_preallocated_segments_takes_records_only(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path)
    assert not journal.append(record(0), b"content")
    assert journal.append(record(0))


def test_what_was_only_prepared_is_removed_by_the_committer(tmp_path: Path, pooled: SegmentJournal) -> None:
    pooled.close()
    reader = JournalReader(tmp_path)

    def is_tidy() -> bool:
        reader.tidy()
        return not segments(tmp_path)

    eventually(is_tidy, what="no segment to be left")


def test_a_failed_sync_of_content_is_told_and_the_segment_is_never_used_again(
    tmp_path: Path, pooled: SegmentJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert eventually(lambda: pooled.append(record(0), b"content"))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail_io)
        with pytest.raises(StorageUnavailable):
            pooled.append(record(1), b"content")
    [failed] = segments(tmp_path)
    pooled.append(record(2))
    reader = JournalReader(tmp_path)
    finish(reader, reader.pending(10)[1])
    assert failed.generation not in {segment.generation for segment in segments(tmp_path)}
