from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pacs_core.errors import IndexUnavailable, PacsError, StorageUnavailable
from pacs_core.lifecycle import moving
from pacs_core.lifecycle.moving import Mover
from pacs_core.model import UID, CopyState, StoredObject
from pacs_core.wiring import index, intake, operations, tiers
from tests.support.crashing import Crash, Fused, Hooked, every_crash
from tests.support.synthetic import Study
from tests.support.tiered import TieredHome, change, end_study_locks

_CHANGES = ("announce", "moved", "copied", "catch_up")


@pytest.fixture
def mover(home: TieredHome) -> Mover:
    return operations.mover(home.settings, home.locations)


def assert_held(home: TieredHome, study: UID, *, instances: int = 3) -> None:
    """Key and lake name objects that are there, whole."""
    objects = home.objects(study)
    assert len(objects) == instances
    assert all(home.is_intact(each) for each in objects)
    rows = home.lake_rows(study)
    assert len(rows) == instances
    assert all(home.is_intact(each) for each in rows)


def assert_only_on(home: TieredHome, study: UID, *tiers: str) -> None:
    for tier in home.settings.tiers:
        assert bool(home.paths(tier, study)) is (tier in tiers), tier


def test_a_study_goes_down_the_tiers_and_comes_back(home: TieredHome, mover: Mover) -> None:
    (study,) = home.take_in()
    for source, target in (("hot", "warm"), ("warm", "cold"), ("cold", "hot")):
        result = mover.move([home.step(study, source, target)], change())
        assert (result.instances, result.studies, result.failures) == (3, 1, ())
        assert home.tiers_of(study) == {target}
        assert_held(home, study)
        assert_only_on(home, study, target)
        assert {row.tier for row in home.lake_rows(study)} == {target}
    assert not home.locations.copies([study])


def test_the_index_says_which_run_moved_a_study_and_why(home: TieredHome, mover: Mover) -> None:
    (study,) = home.take_in()
    mover.move([home.step(study, "hot", "warm")], change(run="run-of-this-test"))
    (total,) = home.locations.totals("run-of-this-test")
    assert (total.action, total.from_tier, total.to_tier, total.studies, total.instances) == ("migrated", "hot", "warm", 1, 3)
    with index.sql_session(home.settings) as session:
        told = list(session.run("SELECT author, commit_message, commit_extra_info FROM ducklake_snapshots('lake')").rows())
        rows = session.run(f"SELECT DISTINCT located_by FROM instance WHERE StudyInstanceUID = '{study}'").rows()
        assert list(rows) == [("run-of-this-test",)]
    assert any("run-of-this-test" in str(extra) for _, _, extra in told)


def test_the_old_object_may_stay_as_a_copy(home: TieredHome, mover: Mover) -> None:
    (study,) = home.take_in()
    mover.move([home.step(study, "hot", "warm")], change(), keep=True)
    assert {(copy.tier, copy.state) for copy in home.locations.copies([study])} == {("hot", CopyState.HELD)}
    assert_only_on(home, study, "hot", "warm")
    mover.move([home.step(study, "warm", "hot")], change())
    assert home.tiers_of(study) == {"hot"}
    assert not home.locations.copies([study])
    assert_only_on(home, study, "hot")
    assert_held(home, study)


def test_a_copy_is_made_once(home: TieredHome, mover: Mover) -> None:
    (study,) = home.take_in()
    assert mover.copy([home.step(study, "hot", "cold")], change("copied")).instances == 3
    assert mover.copy([home.step(study, "hot", "cold")], change("copied")).instances == 0
    assert home.tiers_of(study) == {"hot"}
    assert {(copy.tier, copy.state) for copy in home.locations.copies([study])} == {("cold", CopyState.HELD)}


def test_a_damaged_object_stays_where_it_is_and_stops_no_other(home: TieredHome, mover: Mover) -> None:
    damaged, good = home.take_in(Study("MR", instances=2), Study("MR", instances=2))
    victim = home.objects(damaged)[0]
    with (home.settings.landing_root / victim.path).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    result = mover.move([home.step(study, "hot", "warm") for study in (damaged, good)], change())
    assert [(failure.SOPInstanceUID, failure.retryable) for failure in result.failures] == [(victim.SOPInstanceUID, False)]
    assert result.instances == 3
    assert home.tiers_of(good) == {"warm"}
    assert {each.tier for each in home.objects(damaged) if each.SOPInstanceUID == victim.SOPInstanceUID} == {"hot"}
    assert victim.path not in home.paths("warm", damaged)
    assert not home.locations.copies([damaged])


@pytest.mark.parametrize(("most", "size"), [(2, 1 << 30), (500, 1), (4, 1 << 30)])
def test_studies_are_moved_batch_after_batch(home: TieredHome, monkeypatch: pytest.MonkeyPatch, most: int, size: int) -> None:
    monkeypatch.setattr(moving, "_BATCH", most)
    monkeypatch.setattr(moving, "_BATCH_BYTES", size)
    studies = home.take_in(*(Study("MR", instances=count) for count in (3, 1, 5, 2)))
    batches: list[Sequence[StoredObject]] = []

    def announce(method: Callable[..., frozenset[UID]], objects: Sequence[StoredObject], *args: Any, **kwargs: Any) -> frozenset[UID]:
        batches.append(objects)
        left = {copy.StudyInstanceUID for copy in home.locations.copies(studies)}
        assert not left & {each.StudyInstanceUID for each in objects}  # what they share would be removed before it is entered
        return method(objects, *args, **kwargs)

    mover = Mover(home.stores, Hooked(home.locations, announce, "announce"), tiers.landing(home.settings), home.settings.scratch_directory)
    result = mover.move([home.step(study, "hot", "warm") for study in studies], change())
    assert (result.instances, result.studies, result.failures) == (11, 4, ())
    assert len(batches) > 2
    assert max(map(len, batches)) <= most
    for study, count in zip(studies, (3, 1, 5, 2), strict=True):
        assert_held(home, study, instances=count)
        assert_only_on(home, study, "warm")
    assert not home.locations.copies(studies)


def test_a_study_is_free_as_soon_as_nobody_works_on_it(home: TieredHome) -> None:
    """Not when the server notices that a connection was closed; also where the work ended in an error."""
    study = UID("1.2.3")
    for _ in range(50):
        with suppress(KeyError), home.locations.locked([study]) as mine:
            assert mine.studies == {study}
            raise KeyError


def test_a_study_that_another_run_works_on_is_left_to_it(home: TieredHome, mover: Mover) -> None:
    (study,) = home.take_in()
    with home.locations.locked([study]) as mine:
        assert mine.studies == {study}
        result = mover.move([home.step(study, "hot", "warm")], change())
    assert (result.instances, result.busy) == (0, (study,))
    assert home.tiers_of(study) == {"hot"}


def test_without_the_lock_of_its_study_no_key_moves(home: TieredHome, mover: Mover) -> None:
    """Another attempt of the same run may be at work, and removes what this one has copied."""
    (study,) = home.take_in(instances=2)

    def lose_lock(put: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        put(*args, **kwargs)
        end_study_locks(home)

    stores = {name: Hooked(store, lose_lock, "put") for name, store in home.stores.items()}
    doomed = Mover(stores, home.locations, tiers.landing(home.settings), home.settings.scratch_directory)
    with pytest.raises(IndexUnavailable):
        doomed.move([home.step(study, "hot", "warm")], change())
    assert home.tiers_of(study) == {"hot"}
    assert mover.move([home.step(study, "hot", "warm")], change()).instances == 2
    assert_held(home, study, instances=2)
    assert_only_on(home, study, "warm")


def test_keys_move_only_to_a_copy_that_this_run_has_announced(home: TieredHome, mover: Mover) -> None:
    (study,) = home.take_in(instances=2)
    objects = home.objects(study)
    assert home.locations.moved(objects, "warm", change()) == set()
    home.locations.announce(objects[:1], "warm", "another run")
    assert home.locations.moved(objects, "warm", change()) == set()
    assert home.tiers_of(study) == {"hot"}
    mover.settle([study], change())
    assert not home.locations.copies([study])


def test_a_tier_that_is_not_configured_is_named(home: TieredHome, mover: Mover) -> None:
    (study,) = home.take_in()
    with pytest.raises(StorageUnavailable, match="nowhere"):
        mover.move([home.step(study, "hot", "nowhere")], change())


def test_what_arrives_again_under_a_name_is_not_written_over(home: TieredHome, mover: Mover, tmp_path: Path) -> None:
    """An instance that is on warm is sent anew: until that is settled its object on hot is an arrival's."""
    sent = Study("MR")
    paths = sent.write(tmp_path / "again")
    with intake.importer(home.settings) as importer:
        list(importer.run([tmp_path / "again"]))
    home.commit()
    study = UID(sent.uid)
    mover.move([home.step(study, "hot", "warm")], change())
    arrival = home.settings.landing_root / home.objects(study)[0].path
    arrival.write_bytes(paths[0].read_bytes())
    result = mover.move([home.step(study, "warm", "hot")], change())
    assert [failure.retryable for failure in result.failures] == [True]
    assert home.tiers_of(study) == {"warm"}
    assert arrival.read_bytes() == paths[0].read_bytes()


def test_an_instance_of_a_lower_tier_that_is_sent_again_is_no_second_one(home: TieredHome, mover: Mover) -> None:
    (study,) = home.take_in(instances=2)
    mover.move([home.step(study, "hot", "warm")], change())
    home.send_again(study)
    assert home.tiers_of(study) == {"warm"}
    assert_held(home, study, instances=2)
    assert_only_on(home, study, "warm")


@pytest.mark.parametrize("keep", [False, True])
def test_the_lake_follows_where_a_run_died_between_it_and_the_keys(
    home: TieredHome, mover: Mover, monkeypatch: pytest.MonkeyPatch, *, keep: bool
) -> None:
    (study,) = home.take_in(instances=2)
    step = home.step(study, "hot", "warm")

    def die(*_: object) -> NoReturn:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(home.locations, "_follow", die)
        with pytest.raises(Crash):
            mover.move([step], change(), keep=keep)
    assert (home.tiers_of(study), {row.tier for row in home.lake_rows(study)}) == ({"warm"}, {"hot"})
    mover.move([step], change(), keep=keep)
    assert {row.tier for row in home.lake_rows(study)} == {"warm"}
    assert_only_on(home, study, *(["hot", "warm"] if keep else ["warm"]))


@pytest.mark.parametrize("kind", ["move", "copy"])
def test_a_crash_at_any_call_leaves_every_instance_held_and_the_next_run_completes(home: TieredHome, kind: str) -> None:
    for number, fuse in enumerate(every_crash()):
        (study,) = home.take_in(instances=2)
        locations = Fused(home.locations, fuse, *_CHANGES)
        stores = {name: Fused(store, fuse, "put", "delete") for name, store in home.stores.items()}
        doomed = Mover(stores, locations, tiers.landing(home.settings), home.settings.scratch_directory)
        step = home.step(study, "hot", "warm")
        with suppress(Crash, PacsError):
            (doomed.move if kind == "move" else doomed.copy)([step], change())
        assert_held(home, study, instances=2)

        mover = operations.mover(home.settings, home.locations)
        (mover.move if kind == "move" else mover.copy)([home.step(study, "hot", "warm")], change())
        assert_held(home, study, instances=2)
        assert home.tiers_of(study) == ({"warm"} if kind == "move" else {"hot"}), number
        assert_only_on(home, study, *(["warm"] if kind == "move" else ["hot", "warm"]))
        assert {copy.state for copy in home.locations.copies([study])} == (set() if kind == "move" else {CopyState.HELD})
