"""Who is told of which unified procedure steps: PS3.4 table CC.2.3-2, cell by cell."""

import pytest
from pydicom import Dataset, config
from pydicom.dataelem import DataElement

from pacs_core.errors import InvalidAttributeValue, InvalidIdentifier, MissingAttribute, UnsuitedAction
from pacs_core.ports.unified_step import Subscription, Watcher
from pacs_core.workflow.subscriptions import FILTERED, GLOBAL, Action, Effect, greeted, wish_of
from tests.support.unified_steps import action, code

STEP = "1.2.3.4"
N, L, U = Subscription.NONE, Subscription.LOCKED, Subscription.UNLOCKED
TOLD = True

# As it is printed: the rows, and the columns Not Subscribed, Subscribed with Lock and Subscribed w/o Lock, each with what it goes to and
# whether an initial event is sent.
PRINTED = {
    (Action.SUBSCRIBE, GLOBAL, "TRUE"): ((L, TOLD), (L, False), (U, False)),
    (Action.SUBSCRIBE, GLOBAL, "FALSE"): ((U, False), (L, False), (U, False)),
    (Action.SUBSCRIBE, STEP, "TRUE"): ((L, TOLD), (L, TOLD), (L, TOLD)),
    (Action.SUBSCRIBE, STEP, "FALSE"): ((U, TOLD), (U, TOLD), (U, TOLD)),
    (Action.UNSUBSCRIBE, STEP, None): ((N, False), (N, False), (N, False)),
    (Action.UNSUBSCRIBE, GLOBAL, None): ((N, False), (N, False), (N, False)),
    (Action.SUSPEND, GLOBAL, None): ((N, False), (L, False), (U, False)),
}
CELLS = [(*row, before, Effect(*cell)) for row, cells in PRINTED.items() for before, cell in zip((N, L, U), cells, strict=True)]


def information(lock: str | None, **keys: object) -> Dataset:
    return action(ReceivingAE="WATCHER", **({} if lock is None else {"DeletionLock": lock}), **keys)


@pytest.mark.parametrize(("wanted", "uid", "lock", "before", "effect"), CELLS)
def test_a_subscription_changes(wanted: Action, uid: str, lock: str | None, before: Subscription, effect: Effect) -> None:
    assert wish_of(wanted, uid, information(lock)).effect({}, before) == effect


@pytest.mark.parametrize(
    ("wanted", "uid", "lock", "state"),
    [
        (Action.SUBSCRIBE, GLOBAL, "TRUE", L),
        (Action.SUBSCRIBE, GLOBAL, "FALSE", U),
        (Action.UNSUBSCRIBE, GLOBAL, None, None),
        (Action.SUSPEND, GLOBAL, None, None),
        (Action.SUSPEND, FILTERED, None, None),
    ],
)
def test_the_global_subscription_that_there_is_then(wanted: Action, uid: str, lock: str | None, state: Subscription | None) -> None:
    watcher = wish_of(wanted, uid, information(lock)).watcher
    assert watcher == (None if state is None else Watcher("WATCHER", state, {}))


def test_new_steps_are_told_to_those_who_watch_and_want_steps_like_them() -> None:
    watchers = [Watcher("A", L, {}), Watcher("B", U, {"PatientID": "P1"}), Watcher("C", U, {"PatientID": "P2"})]
    assert greeted({"PatientID": "P1"}, watchers) == {"A": Effect(L, is_told=True), "B": Effect(U, is_told=True)}


def test_a_filtered_subscription_is_to_what_a_query_with_its_keys_would_find() -> None:
    wish = wish_of(Action.SUBSCRIBE, FILTERED, information("FALSE", ScheduledStationNameCodeSequence=[code("LINAC1", meaning="")]))
    here = {"ScheduledStationNameCodeSequence": [{"CodeValue": "LINAC1", "CodingSchemeDesignator": "99TEST"}]}
    assert wish.effect(here, N) == Effect(U)  # type: ignore[arg-type]  # a header of sequences
    assert wish.effect({"ScheduledStationNameCodeSequence": [{"CodeValue": "LINAC2"}]}, N) == Effect(N)
    assert wish.watcher is not None
    assert wish.watcher.keys == wish.keys
    assert "DeletionLock" not in wish.keys


def test_what_does_not_suit_is_refused() -> None:
    with pytest.raises(UnsuitedAction):
        wish_of(Action.SUSPEND, STEP, information(None))
    with pytest.raises(MissingAttribute, match="ReceivingAE"):
        wish_of(Action.UNSUBSCRIBE, STEP, action())
    with pytest.raises(MissingAttribute, match="DeletionLock"):
        wish_of(Action.SUBSCRIBE, STEP, information(None))
    with pytest.raises(InvalidAttributeValue, match="DeletionLock"):
        wish_of(Action.SUBSCRIBE, STEP, information("YES"))
    unreadable = information("TRUE")
    unreadable.add(DataElement("ScheduledProcedureStepStartDateTime", "DT", "tomorrow", validation_mode=config.IGNORE))
    with pytest.raises(InvalidIdentifier):
        wish_of(Action.SUBSCRIBE, FILTERED, unreadable)
