import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import BinaryIO

import pydicom.data
import pytest
from pydicom.datadict import tag_for_keyword
from typing_extensions import Buffer

from pacs_core.archive import ingest, placing
from pacs_core.archive.ingest import Ingest
from pacs_core.archive.placing import Fate, Ingested
from pacs_core.dicom.file_meta import build_file_meta, read_file_meta
from pacs_core.errors import (
    DataSetMismatch,
    DuplicateInstance,
    InvalidUID,
    PacsError,
    StorageFull,
    StorageUnavailable,
    UnreadableDataSet,
)
from pacs_core.model import UID, Duplicates, InstanceRecord, InvalidUIDs, Layout, Origin, StoreRequest
from pacs_core.storage.journal import SegmentJournal
from pacs_core.storage.landing import LandingDirectory
from pacs_core.storage.uncommitted import JournalReader

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
WHEN = datetime(2024, 2, 29, 12, tzinfo=UTC)
REQUEST = StoreRequest(UID("1.2.840.10008.5.1.4.1.1.7"), UID("1.2.3.4"), UID("1.2.840.10008.1.2"), Origin("CT1", "PACS", WHEN))
LATER = replace(REQUEST, origin=Origin("CT1", "PACS", WHEN.replace(hour=13)))


def data_set(**attributes: str) -> bytes:
    """A data set in implicit VR little endian, its values as they are: pydicom refuses to write wrong ones."""
    values = {"SOPClassUID": REQUEST.SOPClassUID, "SOPInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    elements = {}
    for keyword, value in {**values, "PatientID": "P1", **attributes}.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        raw = value.encode() + b"\0" * (len(value) % 2)
        elements[tag] = pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw)) + raw if value else b""
    return b"".join(elements[tag] for tag in sorted(elements))


class Home:
    """An archive's ingest on real files."""

    def __init__(
        self,
        root: Path,
        *,
        layout: Layout = Layout.UID,
        duplicates: Duplicates = Duplicates.KEEP_FIRST,
        invalid_uids: InvalidUIDs = InvalidUIDs.REFUSE,
    ) -> None:
        self.hot, self.journal = root / "hot", root / "journal"
        self.ingest = Ingest(
            LandingDirectory(self.hot), SegmentJournal(self.journal), layout=layout, duplicates=duplicates, invalid_uids=invalid_uids
        )

    def store(self, data: bytes, request: StoreRequest = REQUEST) -> Ingested:
        with self.ingest.begin(request) as ingestion:
            for start in range(0, len(data), 100):
                ingestion.write(data[start : start + 100])
            return ingestion.finish()

    def journalled(self) -> list[InstanceRecord]:
        return [entry.record for entry in JournalReader(self.journal).pending(100_000)[0]]

    def files(self) -> list[str]:
        """Everything below the tier, hidden files included."""
        return sorted(path.relative_to(self.hot).as_posix() for path in self.hot.rglob("*") if path.is_file())

    def quarantined(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.hot / ".quarantine").rglob("*.dcm")]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def later(minutes: int = 1) -> StoreRequest:
    return replace(REQUEST, origin=Origin("CT2", "PACS", WHEN.replace(minute=minutes)))


def test_what_is_stored_is_the_data_set_with_its_origin(home: Home) -> None:
    data = data_set()
    outcome = home.store(data)
    assert outcome.fate is Fate.STORED
    assert home.files() == [outcome.record.path] == ["1.2/1.2.3/1.2.3.4.dcm"]
    content = (home.hot / outcome.record.path).read_bytes()
    meta = read_file_meta(BytesIO(content))
    assert content[meta.data_offset :] == data
    assert meta.origin == REQUEST.origin
    assert (outcome.record.size, outcome.record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert outcome.record.header["PatientID"] == "P1"
    assert home.journalled() == [outcome.record]


def test_the_date_layout_goes_by_the_day_of_reception(tmp_path: Path) -> None:
    home = Home(tmp_path, layout=Layout.DATE)
    assert home.store(data_set()).record.path == "2024/02/29/1.2.3.4.dcm"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UnreadableDataSet),
        (b"not DICOM at all, just some text", UnreadableDataSet),
        (data_set()[:-3], UnreadableDataSet),
        (data_set(SOPInstanceUID="1.2.3.5"), DataSetMismatch),
        (data_set(SOPInstanceUID=""), DataSetMismatch),
        (data_set(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), DataSetMismatch),
        (data_set(StudyInstanceUID=""), DataSetMismatch),
        (data_set(SeriesInstanceUID=""), DataSetMismatch),
        (data_set(StudyInstanceUID="../../etc"), InvalidUID),
        (data_set(SeriesInstanceUID="1.02"), InvalidUID),
    ],
)
def test_what_cannot_be_accepted_is_refused_and_leaves_nothing(home: Home, data: bytes, error: type[PacsError]) -> None:
    with pytest.raises(error):
        home.store(data)
    assert home.files() == []
    assert home.journalled() == []


@pytest.mark.parametrize("uid", ["", "1.2.a", "../x", "1" * 65])
def test_a_request_with_an_invalid_uid_is_refused_before_anything_is_written(home: Home, uid: str) -> None:
    with pytest.raises(InvalidUID):
        home.ingest.begin(replace(REQUEST, SOPInstanceUID=UID(uid)))
    assert not home.hot.exists()


def test_by_setting_invalid_uids_are_accepted_under_a_digest(tmp_path: Path) -> None:
    home = Home(tmp_path, invalid_uids=InvalidUIDs.DIGEST)
    outcome = home.store(
        data_set(SOPInstanceUID="../x", StudyInstanceUID="..", SeriesInstanceUID="a/b"), replace(REQUEST, SOPInstanceUID=UID("../x"))
    )
    assert outcome.record.SOPInstanceUID == "../x"
    assert outcome.record.StudyInstanceUID == ".."
    assert home.files() == [outcome.record.path]
    assert all(part.startswith("x-") for part in outcome.record.path.split("/"))
    with pytest.raises(InvalidUID):
        home.ingest.begin(replace(REQUEST, SOPInstanceUID=UID("1" * 2000)))


def test_aborting_leaves_nothing(home: Home) -> None:
    ingestion = home.ingest.begin(REQUEST)
    ingestion.write(data_set())
    ingestion.abort()
    with home.ingest.begin(REQUEST) as other:
        other.write(b"half")
    assert home.files() == []


@pytest.mark.parametrize("policy", [Duplicates.KEEP_FIRST, Duplicates.REJECT])
def test_the_same_data_set_again_is_harmless(tmp_path: Path, policy: Duplicates) -> None:
    home = Home(tmp_path, duplicates=policy)
    first = home.store(data_set())
    again = home.store(data_set(), later())
    assert again == Ingested(first.record, Fate.ALREADY_HELD)
    assert home.files() == [first.record.path]
    assert home.journalled() == [first.record, first.record]


def test_keep_first_puts_another_data_set_into_quarantine(home: Home) -> None:
    first = home.store(data_set())
    other = data_set(PatientID="P2")
    outcome = home.store(other, later())
    assert outcome == Ingested(first.record, Fate.KEPT_FIRST)
    [quarantined] = home.quarantined()
    assert quarantined.endswith(other)
    assert {record.path for record in home.journalled()} == {first.record.path}
    assert all(record.header["PatientID"] == "P1" for record in home.journalled())


def test_reject_refuses_another_data_set_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    home = Home(tmp_path, duplicates=Duplicates.REJECT)
    first = home.store(data_set())
    with pytest.raises(DuplicateInstance):
        home.store(data_set(PatientID="P2"), later())
    assert home.files() == [first.record.path]


def test_replace_puts_another_data_set_beside_the_first_to_take_over(tmp_path: Path) -> None:
    home = Home(tmp_path, duplicates=Duplicates.REPLACE)
    first = home.store(data_set())
    second = home.store(data_set(PatientID="P2"), later(1))
    third = home.store(data_set(PatientID="P3"), later(2))
    assert second.record.path == f"1.2/1.2.3/1.2.3.4~{second.record.sha256[:8]}.dcm"
    assert home.files() == sorted({first.record.path, second.record.path, third.record.path})
    assert home.journalled() == [first.record, second.record, third.record]
    assert all(record.replaces for record in home.journalled())


def test_an_object_that_nobody_was_told_of_is_adopted(home: Home) -> None:
    """As a process leaves it that is killed between naming and journalling."""
    content = build_file_meta(REQUEST) + data_set()
    path = home.hot / "1.2/1.2.3/1.2.3.4.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    outcome = home.store(data_set(), later())
    assert outcome.fate is Fate.ALREADY_HELD
    [record] = home.journalled()
    assert (record.size, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert record.origin == REQUEST.origin


def test_what_a_crash_has_left_of_the_very_arrival_gives_way_to_it(home: Home) -> None:
    """A file that was never synced can have any content after a power failure, also one that parses."""
    path = home.hot / "1.2/1.2.3/1.2.3.4.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(build_file_meta(REQUEST) + data_set(PatientID="\0\0"))
    outcome = home.store(data_set())
    assert outcome.fate is Fate.STORED
    assert path.read_bytes().endswith(data_set())
    assert len(home.quarantined()) == 1


def test_pydicoms_images_come_back_as_they_were_sent(home: Home) -> None:
    for name in ("CT_small.dcm", "JPEG2000.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm", "reportsi.dcm"):
        content = (BUNDLED / name).read_bytes()
        meta = read_file_meta(BytesIO(content))
        request = StoreRequest(UID(meta.SOPClassUID), UID(meta.SOPInstanceUID), UID(meta.TransferSyntaxUID), REQUEST.origin)
        record = home.store(content[meta.data_offset :], request).record
        stored = (home.hot / record.path).read_bytes()
        assert stored[read_file_meta(BytesIO(stored)).data_offset :] == content[meta.data_offset :]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)


def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path) -> None:
    home = Home(small_disk)
    stored = home.store(data_set())
    with pytest.raises(StorageFull):
        home.store(data_set(SOPInstanceUID="1.2.3.5", PatientID="x" * (2 << 20)), replace(REQUEST, SOPInstanceUID=UID("1.2.3.5")))
    assert home.files() == [stored.record.path]
    assert home.store(data_set(SOPInstanceUID="1.2.3.6"), replace(REQUEST, SOPInstanceUID=UID("1.2.3.6"))).fate is Fate.STORED


def test_a_read_only_disk_is_told(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageUnavailable):
        Home(small_disk).store(data_set())


def test_without_a_durable_journal_nothing_is_acknowledged_and_the_repetition_heals(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = os.fdatasync

    def fail_second(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first is that of the object, the second that of the journal
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail_second)
        with pytest.raises(StorageUnavailable):
            home.store(data_set())
    again = home.store(data_set(), later())
    assert again.fate is Fate.ALREADY_HELD
    assert again.record in home.journalled()


def test_an_object_that_could_not_be_synced_is_stored_only_when_it_is_sent_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        with pytest.raises(StorageUnavailable):
            home.store(data_set())
    assert home.files() == []
    assert home.store(data_set(), later()).fate is Fate.STORED


SENDER = """
import sys
from dataclasses import replace
from pathlib import Path
from pacs_core.model import UID
from tests.unit.archive.test_ingest import Home, data_set, REQUEST
home = Home(Path(sys.argv[1]))
for number in range(1_000_000):
    uid = f"1.2.3.4.{number}"
    home.store(data_set(SOPInstanceUID=uid), replace(REQUEST, SOPInstanceUID=UID(uid)))
    print(uid, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 40])
def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path, acknowledged: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, "-c", SENDER, tmp_path], stdout=subprocess.PIPE, env=environment) as sender:
        assert sender.stdout is not None
        for _ in range(acknowledged):
            sender.stdout.readline()
        sender.send_signal(signal.SIGKILL)
    home = Home(tmp_path)
    records = {record.SOPInstanceUID: record for record in home.journalled()}
    assert len(records) >= acknowledged
    for record in records.values():
        assert hashlib.sha256((home.hot / record.path).read_bytes()).hexdigest() == record.sha256
    LandingDirectory(home.hot).sweep()
    assert len(home.files()) <= len(records) + 1  # one may have been named and not journalled


@pytest.mark.parametrize(("old", "new"), [(b"DICM", b"DIXM"), (b"1.2.3.4\0", b"1.2.3.9\0"), (b"received_at", b"rexeived_at")])
@pytest.mark.parametrize("policy", [Duplicates.KEEP_FIRST, Duplicates.REJECT])
def test_a_damaged_object_gives_way_to_an_intact_arrival(tmp_path: Path, policy: Duplicates, old: bytes, new: bytes) -> None:
    home = Home(tmp_path, duplicates=policy)
    held = home.hot / home.store(data_set()).record.path
    content = held.read_bytes()
    meta = read_file_meta(BytesIO(content)).data_offset
    held.unlink()
    held.write_bytes(content[:meta].replace(old, new, 1) + content[meta:].replace(old, new, 1))
    outcome = home.store(data_set(), later())
    assert outcome.fate is Fate.STORED
    assert held.read_bytes().endswith(data_set())
    assert len(home.quarantined()) == 1
    assert home.journalled()[-1] == outcome.record


@pytest.mark.parametrize(("error", "fate"), [(errno.EIO, Fate.STORED), (errno.EACCES, None)])
def test_a_held_object_that_cannot_be_read_gives_way_only_if_the_medium_is_at_fault(
    home: Home, monkeypatch: pytest.MonkeyPatch, error: int, fate: Fate | None
) -> None:
    home.store(data_set())

    def fail(held: BinaryIO, new: BinaryIO) -> bool:
        raise OSError(error, "odd")

    monkeypatch.setattr(placing, "same_data_set", fail)
    if fate is None:
        with pytest.raises(StorageUnavailable):
            home.store(data_set(), later())
        assert home.quarantined() == []
    else:
        assert home.store(data_set(), later()).fate is fate
        assert len(home.quarantined()) == 1


@pytest.mark.parametrize("again", [data_set(), data_set(PatientID="P2")])
def test_the_holder_of_a_name_that_retention_takes_meanwhile_is_named_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, again: bytes
) -> None:
    """Between the comparison and the journal: retention has not seen the arrival, and the arrival relies on what it takes."""
    first = home.store(data_set()).record
    _when_journalled(home, monkeypatch, lambda: LandingDirectory(home.hot).retire(first.path, first.sha256))
    assert home.store(again, LATER).record == first
    assert placing.is_intact(LandingDirectory(home.hot), first)


def test_where_the_holder_is_gone_for_good_nothing_is_acknowledged(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was moved to another tier, or destroyed; the repetition finds out which."""
    first = home.store(data_set()).record
    _when_journalled(home, monkeypatch, (home.hot / first.path).unlink)
    with pytest.raises(StorageUnavailable):
        home.store(data_set(), LATER)
    monkeypatch.undo()
    assert home.store(data_set(), LATER).fate is Fate.STORED


def _when_journalled(home: Home, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Something happens just before the next record is journalled."""
    journal = home.ingest._journal
    append = journal.append

    def acting(record: InstanceRecord, content: Buffer | None = None) -> bool:
        act()
        return append(record, content)

    monkeypatch.setattr(journal, "append", acting)


def test_an_arrival_never_relies_on_an_object_that_the_kernel_has_failed_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    held = home.hot / home.store(data_set()).record.path
    before = held.stat().st_ino
    real = os.fsync

    def fail_object(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == held:
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail_object)
        assert home.store(data_set(), LATER).fate is Fate.ALREADY_HELD
    assert held.stat().st_ino != before
    content = held.read_bytes()
    assert home.store(data_set(), LATER).fate is Fate.ALREADY_HELD
    assert held.read_bytes() == content


def test_while_it_cannot_be_written_anew_either_the_arrival_is_refused_however_often_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    held = home.hot / home.store(data_set()).record.path
    before = held.stat().st_ino
    real = os.fsync

    def fail_content(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().suffix in (".dcm", ".part"):
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail_content)
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                home.store(data_set(), LATER)
    assert held.stat().st_ino == before
    assert home.store(data_set(), LATER).fate is Fate.ALREADY_HELD
    assert held.stat().st_ino != before


class Clock:
    """Time that passes while somebody sleeps, and with each look at it a little."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.slept = 0.0

    def time(self) -> float:
        self.now += 1e-6
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@pytest.mark.parametrize(("ago", "pauses"), [(None, False), (0.02, True), (0.5, False), (-60, False)])
def test_an_instance_comes_a_moment_later_while_a_query_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ago: float | None, pauses: bool
) -> None:
    home = Home(tmp_path)
    clock = Clock(time.time())
    if ago is not None:
        home.journal.mkdir()
        home.ingest._journal.hasten()
        os.utime(home.journal / ".hasten", (clock.now - ago, clock.now - ago))
    monkeypatch.setattr(ingest, "time", clock)
    assert home.store(data_set()).fate is Fate.STORED
    assert (0 < clock.slept < 0.1) if pauses else clock.slept == 0
