"""Verification over a fake tier: each kind of damage is found, and nothing else."""

import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.archive.verification import Damage, KnownPaths, ShardReport, check_presence, find_orphans, verify_shard
from pacs_core.errors import ObjectMissing, StorageUnavailable
from pacs_core.model import UID, Availability, StoredObject
from pacs_core.ports import Progress
from tests.support.retrieving import MemoryStore


class FakeTier:
    """A tier in memory; `local` gives its objects files."""

    concurrency = 1

    def __init__(self, objects: dict[str, bytes], *, failing: frozenset[str] = frozenset(), local: Path | None = None) -> None:
        self.objects = objects
        self.failing = failing
        self.local = local

    def open(self, path: str) -> BinaryIO:
        if path in self.failing:
            raise StorageUnavailable(path)
        if path not in self.objects:
            raise ObjectMissing(path)
        return io.BytesIO(self.objects[path])

    def local_path(self, path: str) -> Path | None:
        return self.local / path if self.local else None

    def exists(self, path: str) -> bool:
        return path in self.objects

    def delete(self, path: str) -> None:
        del self.objects[path]

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return ((path, len(content)) for path, content in self.objects.items() if path.startswith(prefix))

    def put(self, path: str, source: Path, *, sha256: str, progress: Progress | None = None) -> None:
        self.objects[path] = source.read_bytes()

    def fetch(self, path: str, target: Path, *, sha256: str, progress: Progress | None = None) -> None:
        target.write_bytes(self.objects[path])

    def availability(self, path: str) -> Availability:
        return Availability.ONLINE

    def rehydrate(self, path: str) -> None:
        pass


def stored(path: str, content: bytes, tier: str = "hot") -> StoredObject:
    uid = UID(f"1.2.{path}")
    digest = hashlib.sha256(content).hexdigest()
    return StoredObject(uid, UID("1.1"), UID("1.2"), UID("1.3"), UID("1.4"), tier, path, len(content), digest)


CONTENT = {str(number): b"content %d" % number for number in range(20)}
INDEXED = [stored(path, content) for path, content in CONTENT.items()]


def test_what_is_as_it_was_stored_is_intact() -> None:
    report = verify_shard({"hot": FakeTier(CONTENT)}, INDEXED)
    assert set(report.intact) == {each.SOPInstanceUID for each in INDEXED}
    assert report == ShardReport(report.intact, (), 20, sum(map(len, CONTENT.values())))


@pytest.mark.parametrize(("held", "detail"), [(b"content X", "SHA-256"), (b"content", "7 bytes instead of 9"), (b"", "0 bytes")])
def test_other_bytes_are_corrupt(held: bytes, detail: str) -> None:
    report = verify_shard({"hot": FakeTier({**CONTENT, "3": held})}, INDEXED)
    (problem,) = report.problems
    assert (problem.damage, problem.path, problem.SOPInstanceUID) == (Damage.CORRUPT, "3", "1.2.3")
    assert detail in problem.detail
    assert len(report.intact) == 19


def test_an_object_that_is_gone_is_missing_read_or_not() -> None:
    tier = FakeTier({path: content for path, content in CONTENT.items() if path != "3"})
    for report in (verify_shard({"hot": tier}, INDEXED), check_presence({"hot": tier}, INDEXED)):
        assert [(problem.damage, problem.path) for problem in report.problems] == [(Damage.MISSING, "3")]
        assert report.checked == 20


def test_one_object_that_cannot_be_read_is_damage() -> None:
    report = verify_shard({"hot": FakeTier(CONTENT, failing=frozenset("3"))}, INDEXED)
    assert [(problem.damage, problem.path) for problem in report.problems] == [(Damage.UNREADABLE, "3")]


def test_an_archived_object_is_neither_intact_nor_damaged() -> None:
    tier = MemoryStore()
    tier.objects = dict(CONTENT)
    tier.states["3"] = Availability.ARCHIVED
    report = verify_shard({"hot": tier}, INDEXED)
    assert (report.problems, report.checked, len(report.intact)) == ((), 19, 19)
    assert "1.2.3" not in report.intact


def test_a_tier_that_gives_out_nothing_says_nothing_about_its_objects() -> None:
    with pytest.raises(StorageUnavailable):
        verify_shard({"hot": FakeTier(CONTENT, failing=frozenset(CONTENT))}, INDEXED)


@pytest.mark.parametrize("step", [verify_shard, check_presence])
def test_a_tier_that_is_not_configured_is_no_damage(step: object) -> None:
    assert callable(step)
    with pytest.raises(StorageUnavailable, match="warm is not configured"):
        step({"hot": FakeTier(CONTENT)}, [stored("1", b"", tier="warm")])


def test_what_the_index_does_not_know_is_an_orphan_unless_it_has_just_arrived(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"")
    tier = FakeTier({"new": b"", "gone": b""}, local=tmp_path)
    now = time.time()
    assert find_orphans(tier, "hot", set(), arrived_before=now - 60).problems == ()
    found = find_orphans(tier, "hot", set(), arrived_before=now + 60).problems
    assert [(problem.damage, problem.path) for problem in found] == [(Damage.ORPHAN, "new")]
    assert find_orphans(tier, "hot", {"new"}, arrived_before=now + 60).problems == ()


def test_an_old_file_that_was_just_moved_into_place_has_just_arrived(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"")
    os.utime(tmp_path / "new", (0, 0))
    assert find_orphans(FakeTier({"new": b""}, local=tmp_path), "hot", set(), arrived_before=time.time() - 60).problems == ()


def test_an_unknown_object_of_a_remote_tier_is_an_orphan_at_once() -> None:
    found = find_orphans(FakeTier({"a": b"", "b": b""}), "cold", {"a"}, arrived_before=0).problems
    assert [(problem.tier, problem.path) for problem in found] == [("cold", "b")]


@given(st.sets(st.text()), st.sets(st.text()))
def test_known_paths_are_those_that_were_given(known: set[str], others: set[str]) -> None:
    paths = KnownPaths(known)
    assert all(path in paths for path in known)
    assert not any(path in paths for path in others - known)
