import hashlib
import json
import tarfile
import zipfile
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pydicom.uid
import pytest

from pacs_core.errors import PacsError
from pacs_core.lifecycle.archiving import Archiver
from pacs_core.lifecycle.moving import Mover
from pacs_core.lifecycle.packaging import Form
from pacs_core.model import UID, CopyState, RemovedState
from pacs_core.wiring import index, operations, tiers
from tests.support.crashing import Crash, Fused, every_crash
from tests.support.synthetic import Study
from tests.support.tiered import TieredHome, as_planned, change

LATER = datetime(2999, 1, 1, tzinfo=UTC)


@pytest.fixture
def archiver(home: TieredHome) -> Archiver:
    return operations.archiver(home.settings, home.locations)


def package_of(home: TieredHome, study: UID) -> Path:
    (path,) = {copy.path for copy in home.locations.copies([study])}
    return Path(home.settings.tiers["cold"].url) / path


def remove(home: TieredHome, study: UID) -> int:
    """By retention that requires a copy, and destroyed at once."""
    retention = operations.retention(home.settings, home.locations, home.removals)
    past = datetime(2020, 1, 1, tzinfo=UTC)
    removed = retention.remove([home.step(study, "hot", "")], change("removed"), past, named=as_planned, require_copy=True)
    retention.destroy(home.removals.all(RemovedState.QUARANTINED, studies=[study]), change("destroyed"))
    return removed.instances


def damaged(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def damage(file: Path) -> None:
    file.write_bytes(damaged(file.read_bytes()))


def bring_back(home: TieredHome, archiver: Archiver, study: UID) -> int:
    with closing(index.index_writer(home.settings)) as writer:
        result = archiver.bring_back(study, change("restored"), writer)
    assert not result.failures
    return result.instances


@pytest.mark.parametrize("form", Form)
def test_what_is_archived_may_be_removed_and_comes_back_as_it_was(home: TieredHome, archiver: Archiver, form: Form) -> None:
    (study,) = home.take_in()
    before = sorted(home.objects(study), key=lambda each: each.path)
    result = archiver.archive([home.step(study, "hot", "cold")], change("archived", run=f"run-{form}"), form)
    assert (result.instances, result.studies, result.failures) == (3, 1, ())
    assert home.tiers_of(study) == {"hot"}
    assert remove(home, study) == 3
    assert not home.objects(study)
    assert not home.paths("hot", study)
    assert bring_back(home, archiver, study) == 3
    assert sorted(home.objects(study), key=lambda each: each.path) == before
    assert sorted(home.lake_rows(study), key=lambda each: each.path) == before
    assert all(home.is_intact(each) for each in before)
    assert bring_back(home, archiver, study) == 0


def test_a_package_can_be_read_with_any_tool(home: TieredHome, archiver: Archiver) -> None:
    zipped, tarred = home.take_in(Study("MR", instances=2), Study("MR", instances=2))
    for study, form in ((zipped, Form.ZIP), (tarred, Form.TAR)):
        archiver.archive([home.step(study, "hot", "cold")], change("archived"), form)
    with zipfile.ZipFile(package_of(home, zipped)) as package:
        manifest = json.loads(package.read("manifest.json"))
        digests = {name: hashlib.sha256(package.read(name)).hexdigest() for name in package.namelist()}
    assert manifest["StudyInstanceUID"] == zipped
    assert {each["name"]: each["sha256"] for each in manifest["instances"]} == {each.path: each.sha256 for each in home.objects(zipped)}
    assert all(digests[each["name"]] == each["sha256"] for each in manifest["instances"])
    with tarfile.open(package_of(home, tarred)) as tar:
        assert set(tar.getnames()) == {"manifest.json", *(each.path for each in home.objects(tarred))}


def test_it_is_archived_once_and_what_came_since_is_added(home: TieredHome, archiver: Archiver) -> None:
    (study,) = home.take_in(Study("MR", instances=2))
    assert archiver.archive([home.step(study, "hot", "cold")], change("archived", run="first"), Form.ZIP).instances == 2
    assert archiver.archive([home.step(study, "hot", "cold")], change("archived", run="second"), Form.ZIP).instances == 0
    home.take_in(Study("MR", instances=1, uid=pydicom.uid.UID(study)))
    assert archiver.archive([home.step(study, "hot", "cold")], change("archived", run="third"), Form.ZIP).instances == 1
    assert len({copy.path for copy in home.locations.copies([study])}) == 2


def test_a_damaged_object_keeps_its_study_from_being_packed_and_stops_no_other(home: TieredHome, archiver: Archiver) -> None:
    damaged, good = home.take_in(Study("MR", instances=2), Study("MR", instances=2))
    victim = home.settings.landing_root / home.objects(damaged)[0].path
    victim.write_bytes(victim.read_bytes()[:-1] + b"\xff")
    result = archiver.archive([home.step(study, "hot", "cold") for study in (damaged, good)], change("archived"), Form.TAR)
    assert [failure.StudyInstanceUID for failure in result.failures] == [damaged]
    assert result.instances == 2
    assert not [copy for copy in home.locations.copies([damaged]) if copy.state is CopyState.HELD]


def test_a_package_goes_when_the_last_of_its_members_does(home: TieredHome, archiver: Archiver) -> None:
    (study,) = home.take_in()
    archiver.archive([home.step(study, "hot", "cold")], change("archived"), Form.ZIP)
    package, (first, *others) = package_of(home, study), home.locations.copies([study])
    mover = operations.mover(home.settings, home.locations)
    for leaving, left in (([first], 2), (others, 0)):
        with home.database.transaction() as session:
            session.run(
                """UPDATE pacs.instance_copy SET state = 'leaving' WHERE "SOPInstanceUID" = ANY(CAST(:uids AS text[]))""",
                uids=[copy.SOPInstanceUID for copy in leaving],
            )
        mover.settle([study], change())
        assert len(home.locations.copies([study])) == left
        assert package.exists() is (left > 0)
    assert all(home.is_intact(each) for each in home.objects(study))


def test_a_damaged_package_is_no_copy_that_retention_relies_on(home: TieredHome, archiver: Archiver) -> None:
    (study,) = home.take_in()
    archiver.archive([home.step(study, "hot", "cold")], change("archived"), Form.ZIP)
    package = package_of(home, study)
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    assert remove(home, study) == 0
    assert len(home.objects(study)) == 3


def test_bringing_back_that_was_killed_before_the_lake_knew_is_completed(
    home: TieredHome, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study,) = home.take_in(instances=2)
    archiver.archive([home.step(study, "hot", "cold")], change("archived"), Form.OBJECTS)
    assert remove(home, study) == 2

    def die(*_: object) -> NoReturn:
        raise Crash

    with closing(index.index_writer(home.settings)) as writer:
        monkeypatch.setattr(writer, "_write", die)
        with pytest.raises(Crash):
            archiver.bring_back(study, change("restored"), writer)
    assert (len(home.objects(study)), len(home.lake_rows(study))) == (2, 0)
    assert bring_back(home, archiver, study) == 2
    assert sorted(home.lake_rows(study), key=lambda each: each.path) == sorted(home.objects(study), key=lambda each: each.path)
    assert bring_back(home, archiver, study) == 0


@pytest.mark.parametrize("form", Form)
def test_what_one_copy_does_not_give_comes_from_another(home: TieredHome, archiver: Archiver, form: Form) -> None:
    """One member of the first copy is damaged, one object of the second; the rest of each is as good as ever."""
    (study,) = home.take_in()
    first, second, _ = (each.path for each in home.objects(study))
    archiver.archive([home.step(study, "hot", "cold")], change("archived"), form)
    archiver.archive([home.step(study, "hot", "warm")], change("archived", run="again"), Form.OBJECTS)
    assert remove(home, study) == 3
    in_cold, in_warm = (Path(home.settings.tiers[tier].url) for tier in ("cold", "warm"))
    if form is Form.OBJECTS:
        damage(in_cold / first)
    else:
        (package,) = {copy.path for copy in home.locations.copies([study]) if copy.member}
        original = (in_warm / first).read_bytes()
        content = (in_cold / package).read_bytes()
        at = content.index(original)
        (in_cold / package).write_bytes(content[:at] + damaged(original) + content[at + len(original) :])
    damage(in_warm / second)
    assert bring_back(home, archiver, study) == 3
    assert all(home.is_intact(each) for each in home.objects(study))


def test_what_no_copy_gives_is_told_and_stops_nothing_else(home: TieredHome, archiver: Archiver) -> None:
    (study,) = home.take_in(instances=2)
    archiver.archive([home.step(study, "hot", "cold")], change("archived"), Form.OBJECTS)
    assert remove(home, study) == 2
    copy = home.locations.copies([study])[0]
    damage(Path(home.settings.tiers["cold"].url) / copy.path)
    with closing(index.index_writer(home.settings)) as writer:
        result = archiver.bring_back(study, change("restored"), writer)
    assert (result.instances, [failure.SOPInstanceUID for failure in result.failures]) == (1, [copy.SOPInstanceUID])
    assert copy.path not in home.paths("hot", study)


def test_of_several_versions_the_last_one_is_brought_back(home: TieredHome, archiver: Archiver) -> None:
    """The copy on warm is of what held the instance before it was replaced; it comes last of those that PostgreSQL lists."""
    (study,) = home.take_in(instances=1)
    (held,) = home.objects(study)
    for target in ("cold", "warm"):
        archiver.archive([home.step(study, "hot", target)], change("archived"), Form.OBJECTS)
    remove(home, study)
    with home.database.transaction() as session:
        session.run(
            "UPDATE pacs.instance_copy SET sha256 = :other, since = since - interval '1 day' WHERE tier = 'warm' AND path = :path",
            other=hashlib.sha256().hexdigest(),
            path=held.path,
        )
    assert bring_back(home, archiver, study) == 1
    assert home.objects(study) == [held]


@pytest.mark.parametrize("form", [Form.OBJECTS, Form.ZIP])
def test_a_crash_at_any_call_leaves_every_instance_held_and_the_next_run_completes(home: TieredHome, form: Form) -> None:
    for number, fuse in enumerate(every_crash()):
        (study,) = home.take_in(instances=2)
        stores = {name: Fused(store, fuse, "put", "delete", "fetch") for name, store in home.stores.items()}
        locations = Fused(home.locations, fuse, "announce", "copied", "catch_up")
        landing = tiers.landing(home.settings)
        mover = Mover(stores, locations, landing, home.settings.scratch_directory)
        doomed = Archiver(stores, mover, locations, landing, home.settings.scratch_directory)
        step = home.step(study, "hot", "cold")
        with suppress(Crash, PacsError):
            doomed.archive([step], change("archived", run=f"{form}-{number}"), form)
        assert len(home.objects(study)) == 2

        operations.archiver(home.settings, home.locations).archive([step], change("archived", run=f"{form}-{number}-again"), form)
        copies = home.locations.copies([study])
        assert {(copy.tier, copy.state) for copy in copies} == {("cold", CopyState.HELD)}
        assert len(copies) == 2
        held = {path for path, _ in home.stores["cold"].list() if study in path}
        assert held == {copy.path for copy in copies}
