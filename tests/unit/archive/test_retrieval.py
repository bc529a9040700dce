"""Instances on every kind of tier: fetched ahead, replaced by their copies, asked for where they are archived."""

import gc
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest

from pacs_core.archive.stored import StoredDataSet
from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.errors import ChecksumMismatch, ObjectArchived, ObjectMissing, PacsError, StorageUnavailable
from pacs_core.model import UID, Availability, Origin, StoredObject, StoreRequest
from pacs_core.ports import ObjectStore
from tests.support.retrieving import FakeAccesses, FakeCopies, FakeRecalls, MemoryStore, retrieving

CT, IMPLICIT = UID("1.2.840.10008.5.1.4.1.1.2"), UID("1.2.840.10008.1.2")
META = build_file_meta(StoreRequest(CT, UID("1.2.3"), IMPLICIT, Origin("A", "B", datetime(2024, 5, 6, tzinfo=UTC))))
WITHIN = 30.0


class Folder(MemoryStore):
    """A local tier."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        root.mkdir()

    def local_path(self, path: str) -> Path | None:
        return self.root / path

    def open(self, path: str) -> BinaryIO:
        return (self.root / path).open("rb")


def content(number: int, size: int = 0) -> bytes:
    return META + b"\x08\x00\x18\x00\x08\x00\x00\x00" + b"%08d" % number + bytes(size)


def stored(number: int, *, tier: str = "cold", size: int = 0) -> StoredObject:
    data = content(number, size)
    digest = hashlib.sha256(data).hexdigest()
    return StoredObject(UID(f"1.3.{number}"), CT, IMPLICIT, UID("1.2"), UID("1.1"), tier, f"{number}.dcm", len(data), digest)


def data_of(source: StoredDataSet) -> bytes:
    with source:
        data = bytearray(source.size)
        source.read_into([memoryview(data)], 0)
        return bytes(data)


@pytest.fixture
def hot(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "hot")


def filled(store: MemoryStore, count: int, size: int = 0) -> list[StoredObject]:
    for number in range(count):
        store.objects[f"{number}.dcm"] = content(number, size)
    return [stored(number, size=size) for number in range(count)]


def test_what_is_local_is_opened_where_it_is_by_the_same_thread(tmp_path: Path, hot: Folder) -> None:
    (hot.root / "1.dcm").write_bytes(content(1))
    before = threading.active_count()
    with retrieving({"hot": hot}, tmp_path / "cache") as reading:
        instance = stored(1, tier="hot")
        reading._accesses.close()  # its thread is not what this is about
        with reading.session([instance]) as session:
            assert data_of(session.open(instance)) == content(1)[len(META) :]
        assert threading.active_count() == before
    assert not (tmp_path / "cache").exists()


def test_remote_instances_are_fetched_several_at_once_and_come_in_order(tmp_path: Path) -> None:
    together = threading.Barrier(4)
    cold = MemoryStore(concurrency=4, before=lambda _: together.wait(WITHIN))  # no fetch ends unless four run at once
    instances = filled(cold, 40)
    with retrieving({"cold": cold}, tmp_path / "cache") as reading, reading.session(instances) as session:
        assert [data_of(session.open(each)) for each in instances] == [content(number)[len(META) :] for number in range(40)]
    assert cold.most == 4
    assert sorted(cold.fetched) == sorted(each.path for each in instances)


def test_what_was_fetched_once_is_not_fetched_again(tmp_path: Path) -> None:
    cold = MemoryStore()
    instances = filled(cold, 5)
    for _ in range(2):
        with retrieving({"cold": cold}, tmp_path / "cache") as reading, reading.session(instances) as session:
            for each in instances:
                data_of(session.open(each))
    assert len(cold.fetched) == 5


def test_no_more_is_fetched_ahead_than_the_bound_and_nothing_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs_core.archive.retrieval._AHEAD_BYTES", 3 * 10_000)
    cold = MemoryStore(concurrency=8)
    instances = filled(cold, 30, size=9_000)
    with retrieving({"cold": cold}, tmp_path / "cache", limit=0) as reading:
        with reading.session(instances) as session:
            data_of(session.open(instances[0]))
            data_of(session.open(instances[1]))
        for fetchers in reading._fetchers.values():
            fetchers.shutdown(wait=True)
    assert 2 <= len(cold.fetched) <= 5


def test_instances_that_are_passed_over_or_asked_for_again_do_no_harm(tmp_path: Path) -> None:
    cold = MemoryStore(concurrency=2)
    instances = filled(cold, 20)
    order = [3, 3, 15, 4, 19, 0]
    with retrieving({"cold": cold}, tmp_path / "cache", limit=0) as reading, reading.session(instances) as session:
        assert [data_of(session.open(instances[n]))[8:] for n in order] == [b"%08d" % n for n in order]


def test_a_session_leaves_no_descriptors(tmp_path: Path) -> None:
    cold = MemoryStore()
    instances = filled(cold, 10)
    gc.collect()  # what earlier tests have left must not close meanwhile
    before = len(list(Path("/proc/self/fd").iterdir()))
    with retrieving({"cold": cold}, tmp_path / "cache") as reading:
        with reading.session(instances) as session:
            data_of(session.open(instances[0]))
        for fetchers in reading._fetchers.values():
            fetchers.shutdown(wait=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def _missing(hot: Folder) -> None:
    (hot.root / "1.dcm").unlink()


def _flipped(hot: Folder) -> None:
    (hot.root / "1.dcm").write_bytes(content(2))


def _short(hot: Folder) -> None:
    (hot.root / "1.dcm").write_bytes(content(1)[:-1])


DAMAGES = pytest.mark.parametrize(
    ("damage", "error"), [(_missing, ObjectMissing), (_flipped, ChecksumMismatch), (_short, ChecksumMismatch)]
)


@DAMAGES
def test_a_copy_is_served_where_the_primary_object_is_damaged(
    tmp_path: Path, hot: Folder, damage: Callable[[Folder], None], error: type[PacsError]
) -> None:
    (hot.root / "1.dcm").write_bytes(content(1))
    primary, cold = stored(1, tier="hot"), MemoryStore()
    cold.objects["copy"] = content(1)
    copies = FakeCopies({"1.3.1": [primary, replace(primary, tier="cold", path="copy")]})
    with retrieving({"hot": hot, "cold": cold}, tmp_path / "cache", copies=copies) as reading:
        reading.open(primary).close()
        assert copies.asked == []
        damage(hot)
        assert data_of(reading.open(primary)) == content(1)[len(META) :]
        cold.objects.clear()
        (tmp_path / "cache" / primary.sha256[:2] / primary.sha256).unlink()
        with pytest.raises(error):
            reading.open(primary)


def test_an_instance_that_has_moved_since_it_was_located_is_found(tmp_path: Path, hot: Folder) -> None:
    cold = MemoryStore()
    (now,) = filled(cold, 1)
    with retrieving({"hot": hot, "cold": cold}, tmp_path / "cache", copies=FakeCopies({now.SOPInstanceUID: [now]})) as reading:
        assert data_of(reading.open(replace(now, tier="hot"))) == content(0)[len(META) :]


def test_another_data_set_of_the_same_instance_is_no_copy(tmp_path: Path, hot: Folder) -> None:
    cold = MemoryStore()
    (other,) = filled(cold, 1)
    asked = replace(other, tier="hot", sha256="0" * 64)
    copies = FakeCopies({other.SOPInstanceUID: [other]})
    with retrieving({"hot": hot, "cold": cold}, tmp_path / "cache", copies=copies) as reading, pytest.raises(ObjectMissing):
        reading.open(asked)


def test_a_large_local_object_that_was_damaged_when_it_was_read_is_hashed_first_the_next_time(tmp_path: Path, hot: Folder) -> None:
    primary, wrong = stored(1, tier="hot", size=3 << 20), content(2, 3 << 20)
    (hot.root / "1.dcm").write_bytes(wrong)
    with retrieving({"hot": hot}, tmp_path / "cache") as reading:
        source = reading.open(primary)
        with pytest.raises(ChecksumMismatch):
            data_of(source)
        with pytest.raises(ChecksumMismatch):
            reading.open(primary)
        (hot.root / "1.dcm").write_bytes(content(1, 3 << 20))
        for _ in range(2):
            assert data_of(reading.open(primary))[8:16] == b"%08d" % 1


@pytest.mark.parametrize("size", [0, 3 << 20])
def test_a_cached_file_that_has_rotted_is_fetched_again(tmp_path: Path, size: int) -> None:
    cold = MemoryStore()
    (instance,) = filled(cold, 1, size)
    with retrieving({"cold": cold}, tmp_path / "cache") as reading:
        reading.open(instance).close()
        cached = tmp_path / "cache" / instance.sha256[:2] / instance.sha256
        cached.write_bytes(content(7, size))
        if size:  # known only when it has been read to its end
            with pytest.raises(ChecksumMismatch):
                data_of(reading.open(instance))
        assert data_of(reading.open(instance)) == content(0, size)[len(META) :]
    assert len(cold.fetched) == 2


def test_without_verification_only_the_length_of_local_objects_is_looked_at(tmp_path: Path, hot: Folder) -> None:
    (hot.root / "1.dcm").write_bytes(content(2))
    with retrieving({"hot": hot}, tmp_path / "cache", verify=False) as reading:
        assert data_of(reading.open(stored(1, tier="hot")))[8:] == b"%08d" % 2
        (hot.root / "1.dcm").write_bytes(content(2) + b"\0")
        with pytest.raises(ChecksumMismatch):
            reading.open(stored(1, tier="hot"))


def test_an_archived_object_is_asked_for_once_in_a_session_and_fails_at_once(tmp_path: Path) -> None:
    cold, recalls, called = MemoryStore(), FakeRecalls(), list[bool]()
    instances = filled(cold, 5)
    cold.states = {each.path: Availability.ARCHIVED for each in instances[1:]}
    with (
        retrieving({"cold": cold}, tmp_path / "cache", recalls=recalls, recall=lambda: called.append(True)) as reading,
        reading.session(instances) as session,
    ):
        data_of(session.open(instances[0]))
        for each in instances[1:]:
            with pytest.raises(ObjectArchived, match="has been requested"):
                session.open(each)
    assert (recalls.studies, called) == (["1.1"], [True])


def test_a_readable_copy_of_an_archived_object_is_served_and_nothing_is_recalled(tmp_path: Path, hot: Folder) -> None:
    cold, recalls = MemoryStore(), FakeRecalls()
    (instance,) = filled(cold, 1)
    cold.states[instance.path] = Availability.ARCHIVED
    (hot.root / instance.path).write_bytes(content(0))
    copies = FakeCopies({instance.SOPInstanceUID: [replace(instance, tier="hot")]})
    with retrieving({"hot": hot, "cold": cold}, tmp_path / "cache", copies=copies, recalls=recalls) as reading:
        assert data_of(reading.open(instance)) == content(0)[len(META) :]
    assert recalls.studies == []


def test_a_tier_that_does_not_answer_is_given_up_after_a_few_tries(tmp_path: Path) -> None:
    def away(path: str) -> None:
        raise StorageUnavailable("time-out")

    cold = MemoryStore(concurrency=1, before=away)
    instances = filled(cold, 20)
    with retrieving({"cold": cold}, tmp_path / "cache") as reading, reading.session(instances) as session:
        for each in instances:
            with pytest.raises(StorageUnavailable):
                session.open(each)
    assert len(cold.fetched) == 3


@pytest.mark.parametrize("tiers", [{}, {"warm": MemoryStore()}])
def test_an_object_on_a_tier_that_is_not_configured_is_unavailable(tmp_path: Path, tiers: Mapping[str, ObjectStore]) -> None:
    with (
        retrieving(tiers, tmp_path / "cache") as reading,
        reading.session([stored(1)]) as session,
        pytest.raises(StorageUnavailable, match="not configured"),
    ):
        session.open(stored(1))


def test_the_studies_of_a_session_are_noted(tmp_path: Path) -> None:
    accesses = FakeAccesses()
    with retrieving({}, tmp_path / "cache", accesses=accesses) as reading:
        for _ in range(3):
            with reading.session([stored(1), replace(stored(2), StudyInstanceUID=UID("1.9"))]):
                pass
    assert accesses.recorded == [["1.1", "1.9"]]
