"""Unified procedure steps in PostgreSQL: changed one after the other, and not touched by what else the worklist is told."""

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pacs_core.errors import DuplicateInstance, NotFound, NoUnifiedStep, WrongTransaction
from pacs_core.index import worklist
from pacs_core.index.event_reports import EventReports
from pacs_core.index.performed_steps import PerformedSteps
from pacs_core.index.postgres import Database
from pacs_core.index.unified_steps import UnifiedSteps
from pacs_core.index.worklist import Worklist
from pacs_core.ports.modality import Cancelled, Entry, PerformedStep, Report, RequestedStep
from pacs_core.ports.unified_step import Change, Kept, Subscription, UnifiedStep, Watcher

BEGINS = datetime(2016, 12, 1, 8, 30)  # noqa: DTZ001 local
UID, ANOTHER = "1.2.3.4", "1.2.3.5"
REPORT = Report("A", "1.2", "1.3", UID, 1, {})


def step(uid: str = UID, *, state: str = "SCHEDULED", transaction: str = "") -> UnifiedStep:
    columns = {"PatientID": "P1", "StudyInstanceUID": "1.9", "AccessionNumber": "A1", "ProcedureStepLabel": "Contour"}
    return UnifiedStep(uid, Entry(columns, BEGINS, {"PatientID": "P1"}, "ups", state), transaction, {"00100020": {"vr": "LO"}})


def scheduled(step_id: str = "") -> Entry:
    """A scheduled procedure step of the same study and request."""
    columns = dict.fromkeys(worklist.ATTRIBUTES, "") | {"PatientID": "P1", "StudyInstanceUID": "1.9", "AccessionNumber": "A1"}
    return Entry(columns | {"ScheduledProcedureStepID": step_id}, BEGINS, {"PatientID": "P1"}, "cli")


def no_watchers(_: Sequence[Watcher]) -> tuple[Mapping[str, Subscription], Sequence[Report]]:
    return {}, ()


def to(changed: UnifiedStep | None, *reports: Report) -> Change:
    return lambda _, __: (changed, reports)


@pytest.fixture
def steps(database: Database) -> UnifiedSteps:
    return UnifiedSteps(database)


@pytest.fixture
def items(database: Database) -> Worklist:
    return Worklist(database)


def rows(database: Database, sql: str) -> list[Any]:
    with database.transaction() as session:
        return [tuple(row) for row in session.run(sql)]


def test_a_step_is_entered_once_with_its_history(steps: UnifiedSteps, database: Database) -> None:
    steps.create(step(), "RIS", no_watchers)
    with pytest.raises(DuplicateInstance):
        steps.create(step(), "RIS", no_watchers)
    assert steps.get(UID) == Kept("", {"00100020": {"vr": "LO"}})
    steps.change(UID, "CT1", "change state", to(step(state="IN PROGRESS", transaction="1.2"), REPORT))
    assert steps.get(UID).TransactionUID == "1.2"
    history = rows(database, "SELECT operation, calling_ae, from_state, to_state FROM pacs.unified_step_event ORDER BY number")
    assert history == [("N-CREATE", "RIS", None, "SCHEDULED"), ("change state", "CT1", "SCHEDULED", "IN PROGRESS")]
    assert [claimed.report for claimed in EventReports(database).claim(limit=9, lease=timedelta(1))] == [REPORT]


def test_what_is_refused_leaves_everything_as_it_is(steps: UnifiedSteps, database: Database) -> None:
    steps.create(step(), "RIS", no_watchers)

    def refuse(kept: Kept, receivers: Sequence[str]) -> tuple[UnifiedStep | None, Sequence[Report]]:
        raise WrongTransaction("no")

    with pytest.raises(WrongTransaction):
        steps.change(UID, "CT1", "change state", refuse)
    steps.change(UID, "CT1", "change state", to(None))
    assert rows(database, "SELECT count(*) FROM pacs.unified_step_event") == [(1,)]


def test_a_step_that_is_not_there_is_told(steps: UnifiedSteps) -> None:
    with pytest.raises(NoUnifiedStep):
        steps.get(UID)
    with pytest.raises(NoUnifiedStep):
        steps.change(UID, "CT1", "N-SET", to(step()))
    with pytest.raises(NoUnifiedStep):
        steps.subscribe(UID, "A", lambda _, before: (before, ()))


def test_changes_come_one_after_the_other_and_each_sees_the_one_before(steps: UnifiedSteps) -> None:
    steps.create(step(), "RIS", no_watchers)
    seen: list[str] = []

    def take(name: str) -> None:
        def change(kept: Kept, receivers: Sequence[str]) -> tuple[UnifiedStep | None, Sequence[Report]]:
            seen.append(kept.TransactionUID)
            return step(transaction=kept.TransactionUID + name), ()

        steps.change(UID, "CT1", "change state", change)

    threads = [threading.Thread(target=take, args=(name,)) for name in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(each) for each in seen] == [0, 1, 2, 3]


def test_who_watches_is_subscribed_to_new_steps_and_told_of_changes(steps: UnifiedSteps) -> None:
    watcher = Watcher("A", Subscription.LOCKED, {"PatientID": "P1"})
    steps.subscribe_to_all("A", Watcher("A", Subscription.UNLOCKED, {}), lambda _, before: (before, ()))
    steps.subscribe_to_all("A", watcher, lambda _, before: (before, ()))
    greeted: list[Watcher] = []

    def greet(watchers: Sequence[Watcher]) -> tuple[Mapping[str, Subscription], Sequence[Report]]:
        greeted.extend(watchers)
        return {"A": Subscription.LOCKED, "B": Subscription.UNLOCKED}, ()

    steps.create(step(), "RIS", greet)
    assert greeted == [watcher]
    told: list[str] = []

    def change(kept: Kept, receivers: Sequence[str]) -> tuple[UnifiedStep | None, Sequence[Report]]:
        told.extend(receivers)
        return None, ()

    steps.change(UID, "CT1", "N-SET", change)
    assert told == ["A", "B"]


def test_subscriptions_change_and_know_what_they_were(steps: UnifiedSteps) -> None:
    seen: list[Subscription] = []

    def become(after: Subscription) -> Any:
        def decide(kept: Kept, before: Subscription) -> tuple[Subscription, Sequence[Report]]:
            seen.append(before)
            return after, ()

        return decide

    steps.create(step(), "RIS", no_watchers)
    steps.create(step(ANOTHER), "RIS", no_watchers)
    steps.subscribe(UID, "A", become(Subscription.LOCKED))
    steps.subscribe(UID, "A", become(Subscription.UNLOCKED))
    steps.subscribe_to_all("A", None, become(Subscription.LOCKED))
    steps.subscribe_to_all("A", None, become(Subscription.NONE))
    steps.subscribe(ANOTHER, "A", become(Subscription.NONE))
    none, locked, unlocked = Subscription.NONE, Subscription.LOCKED, Subscription.UNLOCKED
    assert seen == [none, locked, unlocked, none, locked, locked, none]


def test_a_step_that_is_pushed_while_somebody_begins_to_watch_is_seen_by_one_of_them(steps: UnifiedSteps, database: Database) -> None:
    entered, begun = threading.Event(), threading.Event()
    found: list[Kept] = []

    def decide(kept: Kept, before: Subscription) -> tuple[Subscription, Sequence[Report]]:
        found.append(kept)
        return before, ()

    def watch() -> None:
        entered.wait(10)
        begun.set()
        steps.subscribe_to_all("A", Watcher("A", Subscription.UNLOCKED, {}), decide)

    def greet(watchers: Sequence[Watcher]) -> tuple[Mapping[str, Subscription], Sequence[Report]]:
        entered.set()
        begun.wait(10)
        return {}, ()

    watching = threading.Thread(target=watch)
    watching.start()
    steps.create(step(), "RIS", greet)
    watching.join()
    assert len(found) == 1


def test_what_is_announced_is_owed_once_to_all_who_are_subscribed_to_anything(steps: UnifiedSteps, database: Database) -> None:
    steps.create(step(), "RIS", lambda _: ({"A": Subscription.LOCKED, "B": Subscription.UNLOCKED}, ()))
    steps.subscribe_to_all("B", Watcher("B", Subscription.LOCKED, {}), lambda _, before: (before, ()))
    announced = Report("", "1.2", "1.3", "1.5", 4, {})
    steps.announce(announced, datetime.now(UTC) - timedelta(minutes=1))
    assert rows(database, "SELECT 1 FROM pacs.event_report") == [], "whoever has subscribed since knows"
    now = datetime.now(UTC) + timedelta(seconds=1)
    steps.announce(announced, now)
    steps.announce(announced, now)
    assert rows(database, "SELECT peer, event_type FROM pacs.event_report ORDER BY peer") == [("A", 4), ("B", 4)]
    with database.transaction() as session:
        session.run("UPDATE pacs.event_report SET created_at = now() - INTERVAL '2 minutes'")
        session.run("UPDATE pacs.event_report SET state = 'delivered' WHERE peer = 'A'")
    steps.announce(announced, now)
    assert rows(database, "SELECT peer, count(*) FROM pacs.event_report GROUP BY 1 ORDER BY 1") == [("A", 2), ("B", 1)]


def test_steps_are_found_by_what_is_known_of_them_exactly(steps: UnifiedSteps, items: Worklist) -> None:
    items.put([scheduled("S1")])
    steps.create(step(), "RIS", no_watchers)
    assert steps.headers({"PatientID": "P1", "state": "SCHEDULED", "SOPInstanceUID": UID, "StudyInstanceUID": "1.9"}) == [
        {"PatientID": "P1"}
    ]
    assert steps.headers({}) == [{"PatientID": "P1"}]
    assert steps.headers({"state": "COMPLETED"}) == []


def test_what_is_said_of_scheduled_procedure_steps_does_not_concern_unified_ones(
    steps: UnifiedSteps, items: Worklist, database: Database
) -> None:
    steps.create(step(), "RIS", no_watchers)
    steps.create(step(ANOTHER), "RIS", no_watchers)  # two of a study
    assert items.headers(["SCHEDULED"], {"PatientID": "P1"}) == []
    with pytest.raises(NotFound):
        items.order([], [Cancelled("1.9", "", "")])
    assert [items.put([scheduled(), scheduled("S1")]), items.put([scheduled(), scheduled("S1")])] == [2, 0]
    done = PerformedStep("COMPLETED", "", "", "", "", None, None, {}, (RequestedStep("1.9", "S1", "A1"),), ())
    PerformedSteps(database).create("1.7", "CT1", done, [])
    assert items.remove("A1") == 2
    assert [(entry.source, entry.state) for entry in items.entries(everything=True)] == [("ups", "SCHEDULED")] * 2


@pytest.mark.parametrize("state", ["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELLED"])
@pytest.mark.parametrize("subscription", Subscription)
def test_a_step_stays_until_it_is_over_and_nobody_has_locked_it(
    steps: UnifiedSteps, items: Worklist, state: str, subscription: Subscription
) -> None:
    steps.create(step(state=state), "RIS", no_watchers)
    steps.subscribe(UID, "A", lambda _, __: (subscription, ()))
    is_over = state in ("COMPLETED", "CANCELLED") and subscription is not Subscription.LOCKED
    assert (len(items.expired(BEGINS + timedelta(1))), items.forget(BEGINS + timedelta(1))) == (0, 0), "it has just come to be so"
    later = datetime.now() + timedelta(1)  # noqa: DTZ005 local
    assert (len(items.expired(later)), items.forget(later)) == ((1, 1) if is_over else (0, 0))
