"""Who is expected and what is claimed: once, in turn, at the pace that was set, whoever asks."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date, datetime, timedelta

import pytest

from pacs_core.index.postgres import Database
from pacs_core.index.prefetches import Pace, Prefetches
from pacs_core.model import UID, Prior, PriorAttempt, PriorRequest
from tests.unit.index.conftest import Place

TODAY = date(2026, 3, 4)
FAST = Pace(at_once=100, per_minute=1000, of_source={"ONE": 1000, "TWO": 1000})
AGED = "UPDATE pacs.prefetch SET settled_at = now() - INTERVAL '25 hours'"


def prior(number: int, *sources: str, instances: int = 3) -> Prior:
    return Prior(UID(f"1.{number}"), sources or ("ONE",), instances)


@pytest.fixture
def queue(database: Database) -> Prefetches:
    return Prefetches(database)


@pytest.fixture
def execute(database: Database) -> Callable[[str], object]:
    def run(statement: str) -> object:
        with database.transaction() as session:
            return session.run(statement)

    return run


def claimed(queue: Prefetches, pace: Pace = FAST) -> PriorAttempt:
    attempt = queue.claim(pace, "run")
    assert isinstance(attempt, PriorAttempt)
    return attempt


def test_the_same_patient_and_day_is_requested_once(queue: Prefetches) -> None:
    request = PriorRequest("P1", TODAY, Modality="CT", reason="worklist")
    assert queue.request([request, PriorRequest("P1", TODAY, Modality="MR"), PriorRequest("", TODAY)]) == 1
    assert queue.request([request]) == 0
    assert queue.request([PriorRequest("P1", TODAY + timedelta(days=1)), PriorRequest("P1", TODAY, IssuerOfPatientID="A")]) == 2
    assert queue.wanted()[0] == request
    queue.settle(request, "planned")
    assert request not in queue.wanted()
    assert queue.request([request]) == 0


def test_a_request_ends_with_its_day(queue: Prefetches) -> None:
    queue.request([PriorRequest("P1", TODAY), PriorRequest("P2", TODAY - timedelta(days=1))])
    assert queue.expire(TODAY) == 1
    assert [each.PatientID for each in queue.wanted()] == ["P1"]


def test_who_was_expected_is_forgotten_with_the_worklist(queue: Prefetches) -> None:
    settled = PriorRequest("P1", TODAY - timedelta(days=1))
    queue.request([settled, PriorRequest("P2", TODAY - timedelta(days=2)), PriorRequest("P3", TODAY)])
    queue.settle(settled, "planned")
    assert (queue.forget(TODAY), queue.forget(TODAY)) == (2, 0)
    assert [each.PatientID for each in queue.wanted()] == ["P3"]


def test_the_worklist_names_each_patient_once_a_day_and_only_for_steps_to_come(queue: Prefetches, execute: Callable[[str], object]) -> None:
    steps = [
        ("P1", "CT", "2026-03-04 10:00", "SCHEDULED", '{"BodyPartExamined": "CHEST"}'),
        ("P1", "MR", "2026-03-04 11:00", "SCHEDULED", "{}"),
        ("P2", "MR", "2026-03-04 10:00", "COMPLETED", "{}"),
        ("P3", "MR", "2026-03-09 10:00", "SCHEDULED", "{}"),
    ]
    for number, (patient, modality, at, state, header) in enumerate(steps):
        execute(
            'INSERT INTO pacs.worklist_item ("PatientID", "PatientName", "AccessionNumber", "StudyInstanceUID", "RequestedProcedureID",'
            ' "ScheduledProcedureStepID", "ScheduledStationAETitle", "Modality", scheduled_at, state, header, source)'
            f" VALUES ('{patient}', '', '', '1.{number}', '', '', 'A', '{modality}', '{at}', '{state}', '{header}', 'cli')"
        )
    start = datetime(2026, 3, 4, 9).astimezone()
    expected = [PriorRequest("P1", TODAY, Modality="CT", BodyPartExamined="CHEST", reason="schedule")]
    assert queue.scheduled(start, start + timedelta(hours=24)) == expected


def test_a_study_is_claimed_by_one_and_held_for_ever(queue: Prefetches) -> None:
    assert queue.enter([prior(1), prior(2)], "run") == 2
    assert queue.enter([prior(1)], "run") == 0
    first, second = claimed(queue), claimed(queue)
    assert [first.StudyInstanceUID, second.StudyInstanceUID] == ["1.1", "1.2"]
    assert isinstance(queue.claim(FAST, "run"), float)
    queue.held(first, 3)
    queue.held(second, 3)
    assert queue.claim(FAST, "run") is None
    assert queue.enter([prior(1)], "run") == 0


def test_many_who_claim_at_once_never_get_the_same(place: Place, queue: Prefetches) -> None:
    queue.enter([prior(number) for number in range(24)], "run")

    def claim_all(worker: int) -> list[str]:
        with closing(Prefetches(Database(place.catalog_url))) as own:
            found: list[str] = []
            while isinstance(attempt := own.claim(FAST, f"run{worker}"), PriorAttempt):
                found.append(attempt.StudyInstanceUID)
            return found

    with ThreadPoolExecutor(4) as workers:
        got = [uid for part in workers.map(claim_all, range(4)) for uid in part]
    assert sorted(got) == sorted({f"1.{number}" for number in range(24)})


def test_a_killed_claim_is_free_when_its_lease_is_over_and_its_holder_can_settle_nothing_any_more(
    queue: Prefetches, execute: Callable[[str], object]
) -> None:
    queue.enter([prior(1)], "run")
    dead = claimed(queue)
    assert queue.renew(dead)
    execute("UPDATE pacs.prefetch SET lease_until = now() - INTERVAL '1 second'")
    alive = claimed(queue)
    assert alive.number == dead.number + 1
    queue.held(dead, 3)
    assert not queue.renew(dead)
    assert queue.renew(alive)


def test_no_more_are_fetched_at_once_or_begun_in_a_minute_than_may(queue: Prefetches, execute: Callable[[str], object]) -> None:
    queue.enter([prior(number, "ONE") for number in range(4)] + [prior(number, "TWO") for number in range(4, 8)], "run")
    assert isinstance(queue.claim(Pace(0, 10, {}), "run"), float)
    pace = Pace(100, 5, {"ONE": 2, "TWO": 100})
    sources = [claimed(queue, pace).source for _ in range(5)]
    assert sorted(sources) == ["ONE", "ONE", "TWO", "TWO", "TWO"]
    assert isinstance(queue.claim(pace, "run"), float), "five in this minute"
    execute("UPDATE pacs.prefetch_start SET started_at = started_at - INTERVAL '1 minute'")
    assert claimed(queue, pace).source == "ONE"
    assert isinstance(queue.claim(Pace(6, 100, pace.of_source), "run"), float), "six at once"


def test_the_next_source_is_asked_at_once_and_all_of_them_after_a_delay(queue: Prefetches, execute: Callable[[str], object]) -> None:
    queue.enter([prior(1, "ONE", "TWO")], "run")
    first = claimed(queue)
    assert (first.source, first.is_last_source, first.rounds) == ("ONE", False, 0)
    queue.failed(first, "away", may_repeat=True, delay=60)
    second = claimed(queue)
    assert (second.source, second.is_last_source) == ("TWO", True)
    queue.failed(second, "has it not", may_repeat=False, delay=60)
    wait = queue.claim(FAST, "run")
    assert isinstance(wait, float)
    assert 50 < wait <= 60
    execute("UPDATE pacs.prefetch SET next_attempt_at = now()")
    third = claimed(queue)
    assert (third.source, third.rounds) == ("ONE", 1)


@pytest.mark.parametrize(("may_repeat", "delay"), [(False, 60.0), (True, None)])
def test_a_study_has_failed_when_no_source_may_give_it_later_or_all_rounds_are_over(
    queue: Prefetches, execute: Callable[[str], object], may_repeat: bool, delay: float | None
) -> None:
    queue.enter([prior(1)], "run")
    queue.failed(claimed(queue), "refused", may_repeat=may_repeat, delay=delay)
    assert queue.claim(FAST, "run") is None
    assert queue.enter([prior(1)], "run") == 0
    execute(AGED)
    assert queue.enter([prior(1)], "run") == 1, "asked for again a day later, it is tried again"


def test_a_source_that_is_in_the_settings_no_more_is_still_claimed_so_that_the_next_one_is_asked(queue: Prefetches) -> None:
    queue.enter([prior(1, "GONE", "TWO")], "run")
    gone = claimed(queue)
    assert gone.source == "GONE"
    queue.failed(gone, "no source any more", may_repeat=False, delay=60)
    assert claimed(queue).source == "TWO"
