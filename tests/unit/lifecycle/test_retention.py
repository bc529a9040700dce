from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn

import pydicom.uid
import pytest

from pacs_core.errors import IndexUnavailable, PacsError
from pacs_core.index.removals import Holds
from pacs_core.lifecycle.moving import Moved, record_of
from pacs_core.lifecycle.plan import Step
from pacs_core.lifecycle.retention import Retention
from pacs_core.lifecycle.rules import RetentionRule, Selection, instances_named, plan_retention
from pacs_core.model import UID, Hold, Removed, RemovedState
from pacs_core.wiring import index, operations, tiers
from tests.support.crashing import Crash, Fused, Hooked, every_crash
from tests.support.synthetic import Study
from tests.support.tiered import TieredHome, as_planned, change, end_study_locks

LATER, PAST = datetime(2999, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def retention(home: TieredHome) -> Retention:
    return operations.retention(home.settings, home.locations, home.removals)


def removed(home: TieredHome, retention: Retention, study: UID, *, tier: str = "hot", until: datetime = LATER) -> Sequence[Removed]:
    """All that is in quarantine of a study once it has been removed from a tier."""
    retention.remove([home.step(study, tier, "")], change("removed"), until, named=as_planned, require_copy=False)
    return home.removals.all(RemovedState.QUARANTINED, studies=[study])


def undo(home: TieredHome, retention: Retention, study: UID) -> int:
    with closing(index.index_writer(home.settings)) as writer:
        return retention.undo(home.removals.all(RemovedState.QUARANTINED, studies=[study]), change("restored"), writer).instances


def patients(home: TieredHome, study: UID) -> int:
    """Rows of the study's level, and of those above it."""
    with index.sql_session(home.settings) as session:
        ((count,),) = session.run(f"SELECT count(*) FROM study JOIN patient USING (PatientID) WHERE StudyInstanceUID = '{study}'").rows()
    return int(count)


def test_a_removed_study_is_out_of_the_index_and_out_of_sight(home: TieredHome, retention: Retention) -> None:
    (study,) = home.take_in()
    result = retention.remove([home.step(study, "hot", "")], change("removed"), LATER, named=as_planned, require_copy=False)
    assert (result.instances, result.studies, result.failures) == (3, 1, ())
    assert not home.objects(study)
    assert not home.lake_rows(study)
    assert patients(home, study) == 0
    assert not home.paths("hot", study)
    assert len(home.removals.all(RemovedState.QUARANTINED, studies=[study])) == 3


@pytest.mark.parametrize("tier", ["hot", "warm"])
def test_it_comes_back_as_it_was(home: TieredHome, retention: Retention, tier: str) -> None:
    (study,) = home.take_in()
    if tier != "hot":
        operations.mover(home.settings, home.locations).move([home.step(study, "hot", tier)], change())
    before = sorted(home.objects(study), key=lambda each: each.path)
    retention.remove([home.step(study, tier, "")], change("removed"), LATER, named=as_planned, require_copy=False)
    assert not home.objects(study)
    assert undo(home, retention, study) == 3
    assert sorted(home.objects(study), key=lambda each: each.path) == before
    assert sorted(home.lake_rows(study), key=lambda each: each.path) == before
    assert all(home.is_intact(each) for each in before)
    assert patients(home, study) == 1
    assert not home.removals.all(RemovedState.QUARANTINED, studies=[study])


def test_what_is_due_is_destroyed_and_what_is_not_stays(home: TieredHome, retention: Retention) -> None:
    due, later = home.take_in(Study("MR"), Study("MR"))
    now = datetime.now(UTC)
    retention.remove([home.step(due, "hot", "")], change("removed"), now - timedelta(seconds=1), named=as_planned, require_copy=False)
    retention.remove([home.step(later, "hot", "")], change("removed"), now + timedelta(days=7), named=as_planned, require_copy=False)
    digests = {study: home.removals.all(RemovedState.QUARANTINED, studies=[study])[0].sha256 for study in (due, later)}
    landing = tiers.landing(home.settings)
    chosen = [each for each in home.removals.all(RemovedState.QUARANTINED, due_at=now) if each.StudyInstanceUID in (due, later)]
    assert retention.destroy(chosen, change("destroyed")).instances == 1
    assert not landing.retired(digests[due]).exists()
    assert landing.retired(digests[later]).exists()
    assert undo(home, retention, due) == 0
    assert undo(home, retention, later) == 1


def test_a_study_on_hold_stays(home: TieredHome, retention: Retention) -> None:
    held, over = home.take_in(Study("MR"), Study("MR"))
    Holds(home.database).place(Hold(held, "a lawsuit", "me"))
    Holds(home.database).place(Hold(over, "it ended", "me", until=datetime(2020, 1, 1, tzinfo=UTC)))
    steps = [home.step(study, "hot", "") for study in (held, over)]
    assert retention.remove(steps, change("removed"), LATER, named=as_planned, require_copy=False).instances == 1
    assert len(home.objects(held)) == 1
    assert home.paths("hot", held)
    assert not home.objects(over)


def test_a_study_that_has_grown_since_the_plan_stays_if_its_rule_no_longer_names_it(home: TieredHome, retention: Retention) -> None:
    grown, same = home.take_in(Study("MR"), Study("MR"))
    rules = [RetentionRule("old", ("hot",), Selection(received_before=datetime.now(UTC)))]
    with closing(index.index_reader(home.settings)) as reader:
        planned = plan_retention(rules, reader.study_facts)
        home.take_in(Study("MR", uid=pydicom.uid.UID(grown)))

        def named(step: Step) -> int:
            return instances_named(step, rules, partial(reader.study_facts, study=step.StudyInstanceUID))

        steps = [step for step in planned if step.StudyInstanceUID in (grown, same)]
        result = retention.remove(steps, change("removed"), LATER, named=named, require_copy=False)
    assert (len(steps), result.instances, result.failures) == (2, 1, ())
    assert len(home.objects(grown)) == 2
    assert not home.objects(same)


def test_what_has_a_key_and_is_not_yet_in_the_lake_is_nothing_that_a_rule_has_seen(home: TieredHome, retention: Retention) -> None:
    (study,) = home.take_in(instances=2)
    result = retention.remove([home.step(study, "hot", "")], change("removed"), LATER, named=lambda _: 1, require_copy=False)
    assert [failure.retryable for failure in result.failures] == [True]
    assert len(home.objects(study)) == 2


def test_where_a_copy_is_required_only_what_has_a_good_one_goes(home: TieredHome, retention: Retention) -> None:
    (study,) = home.take_in()
    step = home.step(study, "hot", "")
    assert retention.remove([step], change("removed"), LATER, named=as_planned, require_copy=True).instances == 0
    operations.mover(home.settings, home.locations).copy([home.step(study, "hot", "cold")], change("copied"))
    damaged = home.locations.copies([study])[0]
    copy = Path(home.settings.tiers["cold"].url) / damaged.path
    copy.write_bytes(copy.read_bytes()[:-1] + b"\xff")
    result = retention.remove([step], change("removed"), LATER, named=as_planned, require_copy=True)
    assert result.instances == 2
    assert [failure.SOPInstanceUID for failure in result.failures] == [damaged.SOPInstanceUID]
    assert [each.SOPInstanceUID for each in home.objects(study)] == [damaged.SOPInstanceUID]


def test_what_is_sent_again_after_its_removal_is_held_again(home: TieredHome, retention: Retention) -> None:
    (study,) = home.take_in(instances=2)
    removed(home, retention, study, until=PAST)
    home.send_again(study)
    assert len(home.objects(study)) == len(home.lake_rows(study)) == 2
    assert patients(home, study) == 1
    retention.destroy(home.removals.all(RemovedState.QUARANTINED, studies=[study]), change("destroyed"))
    assert all(home.is_intact(each) for each in home.objects(study))


def test_what_arrived_again_is_in_sight_also_while_the_index_is_behind(home: TieredHome, tmp_path: Path) -> None:
    """The same file, found equal just before it went, has its key again; to wait for what else is journalled fails."""
    (study,) = home.take_in(instances=1)
    step, (held,) = home.step(study, "hot", ""), home.objects(study)
    landing = tiers.landing(home.settings)

    def behind() -> NoReturn:
        raise IndexUnavailable("behind")

    def arriving_again(retire: Callable[[str, str], None], path: str, sha256: str) -> None:
        record = record_of(landing.local_path(path), tier="hot", path=path)
        with closing(index.index_writer(home.settings)) as writer:
            writer.commit([record])
        retire(path, sha256)

    retention = Retention(home.stores, home.locations, home.removals, Hooked(landing, arriving_again, "retire"), tmp_path, behind)
    result = retention.remove([step], change("removed"), LATER, named=as_planned, require_copy=False)
    assert [failure.reason for failure in result.failures] == ["behind"]
    assert home.objects(study) == [held]
    assert home.is_intact(held)


def test_of_two_removals_of_a_study_the_last_one_is_undone(home: TieredHome, retention: Retention) -> None:
    (study,) = home.take_in(instances=2)
    first = removed(home, retention, study)
    home.send_again(study)
    held = sorted(home.objects(study), key=lambda each: each.path)
    removed(home, retention, study)
    with closing(index.index_writer(home.settings)) as writer:
        result = retention.undo(home.removals.all(RemovedState.QUARANTINED, studies=[study]), change("restored"), writer)
    assert (result.instances, len(result.failures)) == (2, 2)
    assert sorted(home.objects(study), key=lambda each: each.path) == held
    assert all(home.is_intact(each) for each in held)
    assert home.removals.all(RemovedState.QUARANTINED, studies=[study]) == first


def test_bytes_that_another_removal_needs_outlive_the_first(home: TieredHome, retention: Retention) -> None:
    """The very object has come back to its name in between, as what arrives again just when it is removed."""
    (study,) = home.take_in(instances=1)
    (held,) = home.objects(study)
    due = removed(home, retention, study, until=PAST)
    landing = tiers.landing(home.settings)
    landing.revive(held.path, held.sha256)
    with closing(index.index_writer(home.settings)) as writer:
        writer.commit([record_of(landing.local_path(held.path), tier="hot", path=held.path)])
    removed(home, retention, study)
    assert home.removals.removed_as_well(due) == {held.sha256}
    assert retention.destroy(due, change("destroyed")).instances == 1
    assert home.removals.removed_as_well(home.removals.all(RemovedState.QUARANTINED, studies=[study])) == set()
    assert undo(home, retention, study) == 1
    assert home.is_intact(held)


def test_what_is_in_quarantine_on_a_tier_is_not_written_over_by_what_moves_there(home: TieredHome, retention: Retention) -> None:
    (study,) = home.take_in(instances=2)
    mover = operations.mover(home.settings, home.locations)
    mover.move([home.step(study, "hot", "warm")], change())
    quarantined = removed(home, retention, study, tier="warm")
    home.send_again(study)
    result = mover.move([home.step(study, "hot", "warm")], change())
    assert (result.instances, [failure.retryable for failure in result.failures]) == (0, [True, True])
    assert home.tiers_of(study) == {"hot"}
    assert all(home.is_intact(each.object) for each in quarantined)


@pytest.mark.parametrize("tier", ["hot", "warm"])
def test_nothing_is_destroyed_without_the_lock_of_its_study(home: TieredHome, tier: str) -> None:
    (study,) = home.take_in(instances=2)
    if tier != "hot":
        operations.mover(home.settings, home.locations).move([home.step(study, "hot", tier)], change())
    retention = operations.retention(home.settings, home.locations, home.removals)
    due = removed(home, retention, study, tier=tier, until=PAST)
    destroyed: list[str] = []

    def lose_lock(method: Callable[[str], None], what: str) -> None:
        method(what)
        destroyed.append(what)
        end_study_locks(home)

    doomed = Retention(
        {name: Hooked(store, lose_lock, "delete") for name, store in home.stores.items()},
        home.locations,
        home.removals,
        Hooked(tiers.landing(home.settings), lose_lock, "destroy"),
        home.settings.scratch_directory,
        _nothing,
    )
    with pytest.raises(IndexUnavailable):
        doomed.destroy(due, change("destroyed"))
    assert len(destroyed) == 1
    assert retention.destroy(due, change("destroyed")).instances == 2
    assert not home.paths(tier, study)


def test_what_is_being_destroyed_cannot_be_brought_back_nor_the_other_way_round(home: TieredHome, retention: Retention) -> None:
    """Not even by a run that believes to have the lock of the study."""
    (study,) = home.take_in(instances=1)
    due = removed(home, retention, study, until=PAST)
    assert retention.destroy(due, change("destroyed")).instances == 1
    with closing(index.index_writer(home.settings)) as writer:
        assert retention.undo(due, change("restored"), writer) == Moved()
    (study,) = home.take_in(instances=1)
    due = removed(home, retention, study, until=PAST)
    assert undo(home, retention, study) == 1
    assert retention.destroy(due, change("destroyed")) == Moved()
    assert all(home.is_intact(each) for each in home.objects(study))


def test_a_hold_that_is_placed_after_the_list_was_made_stops_the_destruction(home: TieredHome, retention: Retention) -> None:
    (study,) = home.take_in(instances=1)
    due = removed(home, retention, study, until=PAST)
    Holds(home.database).place(Hold(study, "a lawsuit", "me"))
    assert retention.destroy(due, change("destroyed")) == Moved()
    assert undo(home, retention, study) == 1


@pytest.mark.parametrize("tier", ["hot", "warm"])
def test_a_crash_at_any_call_loses_nothing_and_the_next_run_completes(home: TieredHome, tier: str) -> None:
    for fuse in every_crash():
        (study,) = home.take_in(instances=2)
        if tier != "hot":
            operations.mover(home.settings, home.locations).move([home.step(study, "hot", tier)], change())
        before = home.objects(study)
        doomed = Retention(
            home.stores,
            home.locations,
            Fused(home.removals, fuse, "take_out", "forget_rows", "quarantined", "in_use"),
            Fused(tiers.landing(home.settings), fuse, "retire", "revive"),
            home.settings.scratch_directory,
            _nothing,
        )
        with suppress(Crash, PacsError):
            doomed.remove([home.step(study, tier, "")], change("removed"), LATER, named=as_planned, require_copy=False)
        assert all(home.is_intact(each) for each in home.objects(study))

        retention = operations.retention(home.settings, home.locations, home.removals)
        retention.finish(change("removed"))
        if home.objects(study):
            retention.remove([home.step(study, tier, "")], change("removed"), LATER, named=as_planned, require_copy=False)
        assert not home.objects(study)
        assert not home.lake_rows(study)
        assert undo(home, retention, study) == 2
        assert sorted(home.objects(study), key=lambda each: each.path) == sorted(before, key=lambda each: each.path)
        assert all(home.is_intact(each) for each in home.objects(study))


_nothing: Callable[[], None] = lambda: None  # noqa: E731 - nothing is sent meanwhile
