"""An index that is made from storage alone has the rows of the one that was there before."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pacs_core.errors import ConfigurationError, StorageUnavailable
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.contents import digests
from pacs_core.index.lake import LakeReader
from pacs_core.index.postgres import Database
from pacs_core.index.recovery import IndexRecovery
from pacs_core.lifecycle import rebuilding
from pacs_core.lifecycle.rebuilding import Merged, ObjectShard, Reason, Rebuild, Scanned, Workplace, list_shards, scan_shard
from pacs_core.model import Duplicates, Layout
from pacs_core.storage.tiers import open_tier
from tests.unit.index.conftest import Place
from tests.unit.lifecycle.conftest import Archive, fill

ROOT = Path(__file__).parents[3]
NewArchive = Callable[..., Archive]
NewPlace = Callable[[], Place]


def rows(place: Place, sql: str) -> list[tuple[Any, ...]]:
    with closing(LakeReader(place.catalog_url, place.data_path)) as lake:
        return list(lake.rows(sql))


def digests_of(place: Place) -> Mapping[str, str]:
    with closing(LakeReader(place.catalog_url, place.data_path)) as lake:
        return digests(lake)


def keys_of(place: Place) -> list[Any]:
    with closing(Database(place.catalog_url)) as database, database.transaction() as session:
        return list(session.run('SELECT * FROM pacs.instance_key ORDER BY "SOPInstanceUID"'))


def copies_of(place: Place) -> list[Any]:
    with closing(Database(place.catalog_url)) as database, database.transaction() as session:
        return list(session.run('SELECT "SOPInstanceUID", tier, path, state, run_id FROM pacs.instance_copy ORDER BY 1, 2'))


def rebuild(root: Path, place: Place, *, into_existing: bool = False) -> tuple[Scanned, Merged]:
    """As the flow and the command do it."""
    work = Workplace(root / "rebuild")
    stores = {tier: open_tier(str(root / tier)) for tier in ("hot", "warm")}
    with closing(LakeIndexWriter(place.catalog_url, place.data_path)) as writer:
        process = Rebuild(stores, work, writer, IndexRecovery(writer))
        process.begin(into_existing=into_existing)
        shards = [shard for tier in process.tiers for shard in process.shards(tier)]
        scanned = sum(map(process.scan, shards), Scanned())
        return scanned, process.merge(shards, into_existing=into_existing, run="run")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "SHARD_OBJECTS", 3)
    monkeypatch.setattr(rebuilding, "_COMMIT", 4)


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.usefixtures("small_steps")
def test_the_rows_are_the_same_as_before(new_archive: NewArchive, new_place: NewPlace, layout: Layout) -> None:
    archive = new_archive(layout=layout)
    fill(archive)
    archive.index()
    place = new_place()
    scanned, merged = rebuild(archive.root, place)
    assert (scanned.problems, merged.problems, merged.inserted) == ((), (), 17)
    assert digests_of(place) == digests_of(archive.place)
    assert keys_of(place) == keys_of(archive.place)
    assert rows(
        place, "SELECT PatientName, StudyDescription FROM lake.study JOIN lake.patient USING (PatientID) WHERE StudyInstanceUID = '1.1'"
    ) == [("First^Form0", "description 0")]


@pytest.mark.usefixtures("small_steps")
def test_replacements_are_what_is_held(new_archive: NewArchive, new_place: NewPlace) -> None:
    archive = new_archive(duplicates=Duplicates.REPLACE)
    fill(archive)
    for number in (3, 4):
        archive.store(f"1.1.1.{number}", study="1.1", series="1.1.1", PatientID="P1", PatientName="Replaced")
    archive.index()
    place = new_place()
    assert rebuild(archive.root, place)[1].problems == ()
    assert digests_of(place) == digests_of(archive.place)


def test_a_replaced_object_that_was_not_removed_yet_gives_way(new_archive: NewArchive, new_place: NewPlace) -> None:
    archive = new_archive(duplicates=Duplicates.REPLACE)
    archive.store("1.1.1.1", study="1.1", series="1.1.1", PatientID="P1", PatientName="Old")
    archive.index()
    archive.store("1.1.1.1", study="1.1", series="1.1.1", PatientID="P1", PatientName="Newer")
    old = (archive.root / "hot/1.1/1.1.1/1.1.1.1.dcm").read_bytes()
    archive.index()
    (archive.root / "hot/1.1/1.1.1/1.1.1.1.dcm").write_bytes(old)
    place = new_place()
    _, merged = rebuild(archive.root, place)
    assert [(problem.reason, problem.path) for problem in merged.problems] == [(Reason.DIFFERENT, "1.1/1.1.1/1.1.1.1.dcm")]
    assert rows(place, "SELECT path FROM lake.instance") == rows(archive.place, "SELECT path FROM lake.instance")


def test_an_instance_on_two_tiers_is_held_by_the_faster_one(new_archive: NewArchive, new_place: NewPlace) -> None:
    archive = new_archive()
    fill(archive)
    archive.index()
    shutil.copytree(archive.root / "hot/1.1", archive.root / "warm/1.1")
    (different,) = (archive.root / "warm/1.1/1.1.2").glob("1.1.1.7.dcm")
    different.chmod(0o600)
    different.write_bytes(different.read_bytes().replace(b"odd", b"bad"))
    place = new_place()
    _, merged = rebuild(archive.root, place)
    assert digests_of(place) == digests_of(archive.place)
    assert merged.copies == len(copies_of(place)) == 11
    assert {tuple(row[1:2] + row[3:]) for row in copies_of(place)} == {("warm", "held", "run")}
    assert [(problem.reason, problem.tier) for problem in merged.problems] == [(Reason.DIFFERENT, "warm")]


def test_what_is_no_instance_of_ours_is_reported_and_stops_nothing(new_archive: NewArchive, new_place: NewPlace) -> None:
    archive = new_archive()
    fill(archive)
    archive.index()
    hot = archive.root / "hot"
    (hot / "1.1/torn.dcm").write_bytes((hot / "1.2/1.2.1/1.2.1.1.dcm").read_bytes()[:-6])
    (hot / "1.1/empty.dcm").touch()
    (hot / "other.zip").write_bytes(b"PK\x03\x04")
    (hot / "packages/1.1").mkdir(parents=True)
    (hot / "packages/1.1/run.zip").write_bytes(b"PK\x03\x04")
    foreign = (hot / "1.2/1.2.1/1.2.1.1.dcm").read_bytes()
    (hot / "1.1/foreign.dcm").write_bytes(foreign.replace(b"received_at", b"reordered__"))
    (hot / ".quarantine").mkdir(exist_ok=True)
    shutil.copy(hot / "1.2/1.2.1/1.2.1.1.dcm", hot / ".quarantine/x.dcm")
    place = new_place()
    scanned, merged = rebuild(archive.root, place)
    assert {problem.path: problem.reason for problem in scanned.problems} == {
        "1.1/torn.dcm": Reason.UNREADABLE,
        "1.1/empty.dcm": Reason.UNREADABLE,
        "other.zip": Reason.UNREADABLE,
        "packages/1.1/run.zip": Reason.PACKAGE,
        "1.1/foreign.dcm": Reason.FOREIGN,
    }
    assert merged.inserted == 17
    assert digests_of(place) == digests_of(archive.place)


def test_an_index_that_is_not_empty_is_only_added_to_when_that_is_wanted(new_archive: NewArchive) -> None:
    archive = new_archive()
    archive.store("1.1.1.1", study="1.1", series="1.1.1", PatientID="P1")
    archive.index()
    with pytest.raises(ConfigurationError, match="not empty"):
        rebuild(archive.root, archive.place)
    before = rows(archive.place, "FROM lake.instance")
    _, merged = rebuild(archive.root, archive.place, into_existing=True)
    assert (merged.inserted, merged.present) == (0, 1)
    assert rows(archive.place, "FROM lake.instance") == before


def test_what_arrived_or_moved_since_a_restored_backup_is_found(new_archive: NewArchive, new_place: NewPlace) -> None:
    archive = new_archive()
    fill(archive)
    archive.index()
    archive.store("1.6.1.1", study="1.6", series="1.6.1", PatientID="P6")
    archive.index(new_place())  # the index of the backup has not heard of it
    (archive.root / "warm").mkdir()
    shutil.move(archive.root / "hot/1.1", archive.root / "warm/1.1")
    shutil.copytree(archive.root / "hot/1.2", archive.root / "warm/1.2")
    _, merged = rebuild(archive.root, archive.place, into_existing=True)
    assert (merged.inserted, merged.relocated, merged.copies, merged.problems) == (1, 12, 1, ())
    moved = "SELECT count(*) FROM lake.instance WHERE StudyInstanceUID = '1.1' AND tier = 'warm' AND located_by = 'run'"
    assert rows(archive.place, moved) == [(12,)]
    assert [row[5] for row in keys_of(archive.place) if row[4] == "1.1"] == ["warm"] * 12
    again = rebuild(archive.root, archive.place, into_existing=True)[1]
    assert (again.inserted, again.relocated, len(copies_of(archive.place))) == (0, 0, 1)


def test_what_is_journalled_meanwhile_is_indexed_once(new_archive: NewArchive, new_place: NewPlace) -> None:
    archive = new_archive()
    fill(archive)
    archive.index()
    archive.store("1.7.1.1", study="1.7", series="1.7.1", PatientID="P7")
    (waiting,) = archive.records()
    assert waiting.SOPInstanceUID == "1.7.1.1"
    place = new_place()
    rebuild(archive.root, place)
    archive.index(place)
    assert rows(place, "SELECT count(*), count(DISTINCT SOPInstanceUID) FROM lake.instance") == [(18, 18)]
    archive.index()


def test_a_tier_that_does_not_answer_is_no_damage(new_archive: NewArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = new_archive()
    fill(archive)
    archive.index()
    store, work = archive.stores["hot"], Workplace(tmp_path / "work")
    (shard,) = list_shards(store, "hot", work)

    def broken(_: str) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "open", broken)
        with pytest.raises(StorageUnavailable):
            scan_shard(store, 0, shard, work)
    assert scan_shard(store, 0, shard, work).problems == ()


def test_a_shard_that_was_read_is_not_read_again(new_archive: NewArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = new_archive()
    fill(archive)
    archive.index()
    work = Workplace(tmp_path / "work")
    (shard,) = list_shards(archive.stores["hot"], "hot", work)
    first = scan_shard(archive.stores["hot"], 0, shard, work)
    monkeypatch.setattr(archive.stores["hot"], "open", None)
    assert scan_shard(archive.stores["hot"], 0, ObjectShard(shard.name, "hot", 0, 0), work) == first


KILLED = """
import os, sys
from pathlib import Path
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.lifecycle import rebuilding
from tests.unit.index.conftest import Place
from tests.unit.lifecycle.test_rebuilding import rebuild

root, catalog_url, data_path, step = sys.argv[1:]
rebuilding.SHARD_OBJECTS, rebuilding._COMMIT = 3, 4
left = int(step)

def mortal(method):
    def call(*arguments, **named):
        global left
        result = method(*arguments, **named)
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return result
    return call

rebuilding.scan_shard = mortal(rebuilding.scan_shard)
rebuilding.Workplace.save = mortal(rebuilding.Workplace.save)
LakeIndexWriter.commit = mortal(LakeIndexWriter.commit)
rebuild(Path(root), Place(catalog_url, data_path))
"""


@pytest.mark.parametrize("step", [0, 3, 7, 9])
def test_killed_in_the_middle_and_repeated_it_ends_with_the_same_rows(new_archive: NewArchive, new_place: NewPlace, step: int) -> None:
    archive = new_archive()
    fill(archive)
    archive.index()
    place = new_place()
    command = [sys.executable, "-c", KILLED, str(archive.root), place.catalog_url, place.data_path, str(step)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert Workplace(archive.root / "rebuild").is_unfinished
    rebuild(archive.root, place)
    assert digests_of(place) == digests_of(archive.place)
    assert not Workplace(archive.root / "rebuild").is_unfinished
