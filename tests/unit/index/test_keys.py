"""The decisions about keys, without a database."""

from datetime import timedelta

from pacs_core.index.keys import HeldKeys, held_object, plan_keys
from pacs_core.model import InstanceRecord, Origin
from tests.support.records import RECEIVED, record

NOTHING = HeldKeys({}, {})


def later(minutes: int) -> Origin:
    return Origin("MODALITY", "PACS", RECEIVED + timedelta(minutes=minutes))


def replacement(number: int, *, path: str, minutes: int) -> InstanceRecord:
    return record(number, path=path, sha256=path.ljust(64, "0"), origin=later(minutes), replaces=True)


def held(*records: InstanceRecord, before: tuple[InstanceRecord, ...] = ()) -> HeldKeys:
    former = {item.SOPInstanceUID: [held_object(each) for each in before if each.SOPInstanceUID == item.SOPInstanceUID] for item in before}
    return HeldKeys({item.SOPInstanceUID: held_object(item) for item in records}, former)


def test_a_new_instance_takes_its_key() -> None:
    plan = plan_keys([record(1)], NOTHING)
    assert plan.added == (record(1),)
    assert not plan.unsure


def test_an_instance_that_is_held_already_is_repeated_and_looked_up_in_the_lake() -> None:
    plan = plan_keys([record(1)], held(record(1)))
    assert (plan.added, plan.repeated) == ((), 1)
    assert plan.unsure == {record(1).SOPInstanceUID}


def test_a_replay_of_an_instance_that_has_moved_leaves_it_where_it_is() -> None:
    plan = plan_keys([record(1)], held(record(1, tier="warm")))
    assert [winner.tier for winner in plan.winners.values()] == ["warm"]
    assert (plan.added, plan.changed, plan.conflicting) == ((), (), ())


def test_another_object_of_a_held_instance_is_conflicting() -> None:
    other = record(1, path="elsewhere.dcm")
    plan = plan_keys([other], held(record(1)))
    assert plan.conflicting == (other,)
    assert not plan.winners


def test_duplicates_within_a_batch_are_treated_like_duplicates_across_batches() -> None:
    other = record(1, path="elsewhere.dcm")
    plan = plan_keys([record(1), record(1), other], NOTHING)
    assert (plan.added, plan.repeated, plan.conflicting) == ((record(1),), 1, (other,))


def test_a_replacement_takes_the_key_and_names_who_gave_way() -> None:
    newer = replacement(1, path="new.dcm", minutes=1)
    plan = plan_keys([newer], held(record(1)))
    assert plan.changed == (newer,)
    assert plan.superseded == (held_object(record(1)).object,)


def test_a_replacement_within_a_batch_is_added_once() -> None:
    newer = replacement(1, path="new.dcm", minutes=1)
    plan = plan_keys([record(1), newer], NOTHING)
    assert (plan.added, plan.changed) == ((newer,), ())
    assert plan.superseded == (held_object(record(1)).object,)


def test_a_replayed_replacement_names_again_who_gave_way() -> None:
    newer = replacement(1, path="new.dcm", minutes=1)
    plan = plan_keys([newer], held(newer, before=(record(1),)))
    assert (plan.changed, plan.repeated) == ((), 1)
    assert plan.superseded == (held_object(record(1)).object,)


def test_a_replayed_replacement_that_was_replaced_itself_does_not_take_its_key_back() -> None:
    second = replacement(1, path="second.dcm", minutes=1)
    third = replacement(1, path="third.dcm", minutes=2)
    plan = plan_keys([second], held(third, before=(second,)))
    assert (plan.changed, plan.repeated, plan.winners) == ((), 1, {})


def test_the_same_object_received_anew_after_it_was_replaced_takes_its_key_back() -> None:
    newer = replacement(1, path="new.dcm", minutes=1)
    again = record(1, origin=later(2), replaces=True)
    plan = plan_keys([again], held(newer, before=(record(1),)))
    assert plan.changed == (again,)
    assert plan.superseded == (held_object(newer).object,)  # and not its own path


def test_an_object_written_anew_at_its_own_path_refreshes_the_row() -> None:
    restored = record(1, sha256="f" * 64, origin=later(1))
    plan = plan_keys([restored], held(record(1)))
    assert plan.changed == (restored,)
    assert plan.superseded == ()


def test_a_damaged_object_never_becomes_what_the_index_vouches_for() -> None:
    """A duplicate arrives, and a record is made from the object that is held, which has rotted."""
    rotten = record(1, sha256="f" * 64, size=7)
    for damaged in (rotten, record(1, sha256="f" * 64, size=7, replaces=True)):
        plan = plan_keys([damaged], held(record(1)))
        assert (plan.added, plan.changed, plan.winners, plan.superseded, plan.conflicting) == ((), (), {}, (), ())
        assert plan.damaged == (held_object(record(1)).object,)
    assert plan_keys([record(1), rotten], NOTHING).added == (record(1),)


def test_a_replacement_that_was_received_before_the_holder_does_not_beat_it() -> None:
    early = replacement(1, path="early.dcm", minutes=1)
    late = replacement(1, path="late.dcm", minutes=2)
    for plan in (plan_keys([early], held(late)), plan_keys([late, early], NOTHING)):
        assert plan.conflicting == (early,)
        assert plan.superseded == ()
    assert plan_keys([late, early], NOTHING).added == (late,)


def test_a_stale_record_of_the_holders_path_does_not_refresh_its_row() -> None:
    restored = record(1, sha256="f" * 64, origin=later(1))
    plan = plan_keys([record(1)], held(restored))
    assert (plan.changed, plan.superseded) == ((), ())


def test_each_record_names_only_who_gave_way_to_it() -> None:
    second = replacement(1, path="second.dcm", minutes=1)
    third = replacement(1, path="third.dcm", minutes=2)
    fourth = replacement(1, path="fourth.dcm", minutes=3)
    everything = held(third, before=(record(1), second))
    assert plan_keys([third], everything).superseded == (held_object(second).object,)
    assert plan_keys([second], everything).superseded == (held_object(record(1)).object,)
    assert plan_keys([fourth], everything).superseded == (held_object(third).object,)
    assert plan_keys([record(1, path="elsewhere.dcm")], everything).superseded == ()
