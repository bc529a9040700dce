"""What is entered, fetched and settled, with sources and a queue that are fakes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from pacs_core.errors import PeerUnavailable
from pacs_core.model import UID, Prior, PriorAttempt, PriorRequest
from pacs_core.workflow.prefetch import KnownStudy, Policy
from pacs_core.workflow.prefetching import FetchedStudy, Prefetcher

DAY = date(2026, 3, 4)
REQUEST = PriorRequest("P1", DAY)
STUDY = KnownStudy(UID("1"), DAY, frozenset({"CT"}), frozenset(), 5)
ATTEMPT = PriorAttempt(UID("1"), "ONE", 5, number=1, rounds=0, is_last_source=False)


@dataclass
class Queue:
    """Notes what it is told."""

    claimed: bool = True
    told: list[tuple[object, ...]] = field(default_factory=list)

    def settle(self, request: PriorRequest, state: str) -> None:
        self.told.append(("settle", state))

    def enter(self, priors: Sequence[Prior], run: str) -> int:
        self.told.append(("enter", *[prior.StudyInstanceUID for prior in priors]))
        return len(priors)

    def renew(self, attempt: PriorAttempt) -> bool:
        return self.claimed

    def held(self, attempt: PriorAttempt, instances: int) -> None:
        self.told.append(("held", instances))

    def failed(self, attempt: PriorAttempt, reason: str, *, may_repeat: bool, delay: float | None) -> None:
        self.told.append(("failed", may_repeat, delay))


@dataclass
class Source:
    """Has one study, and brings so many of its instances."""

    brings: int = 5
    away: bool = False
    fetched: list[str] = field(default_factory=list)

    def find(self, request: PriorRequest, since: date) -> Sequence[KnownStudy]:
        if self.away:
            raise PeerUnavailable("away")
        return [STUDY]

    def fetch(self, study: UID, alive: Callable[[], object]) -> int:
        if self.away:
            raise PeerUnavailable("away")
        self.fetched.append(study)
        return self.brings


@dataclass
class Held:
    """What is here."""

    here: dict[UID, int] = field(default_factory=dict)

    def of_patient(self, request: PriorRequest, since: date) -> Sequence[KnownStudy]:
        return []

    def instances(self, studies: Sequence[UID]) -> Mapping[UID, int]:
        return self.here


def prefetcher(queue: Queue, here: int = 0, **sources: Source) -> Prefetcher:
    return Prefetcher(queue, sources, Held({UID("1"): here} if here else {}), "run")


def test_a_request_is_planned_once_every_source_has_answered() -> None:
    queue = Queue()
    planned = prefetcher(queue, ONE=Source(away=True), TWO=Source()).plan(REQUEST, Policy(), dry_run=False)
    assert planned.fetch == (Prior(UID("1"), ("TWO",), 5),)
    assert planned.away == (("ONE", "away"),)
    assert queue.told == [("enter", "1")]
    prefetcher(queue, ONE=Source(), TWO=Source()).plan(REQUEST, Policy(), dry_run=False)
    assert queue.told[1:] == [("enter", "1"), ("settle", "planned")]


def test_a_dry_run_tells_the_queue_nothing() -> None:
    queue = Queue()
    assert prefetcher(queue, ONE=Source()).plan(REQUEST, Policy(), dry_run=True).fetch
    assert prefetcher(queue, ONE=Source()).plan(PriorRequest("*", DAY), Policy(), dry_run=True).refused
    assert queue.told == []


def test_a_patient_who_cannot_be_named_is_refused_and_nobody_is_asked() -> None:
    queue = Queue()
    assert prefetcher(queue, ONE=Source(away=True)).plan(PriorRequest("*", DAY), Policy(), dry_run=False).refused
    assert queue.told == [("settle", "refused")]


def test_a_study_is_held_when_our_own_index_says_so() -> None:
    queue = Queue()
    assert prefetcher(queue, here=5, ONE=Source()).fetch(ATTEMPT) == FetchedStudy(UID("1"), "ONE", 5)
    assert queue.told == [("held", 5)]


def test_a_source_that_sends_elsewhere_has_failed_for_good() -> None:
    queue = Queue()
    assert "where does it send them" in prefetcher(queue, here=2, ONE=Source()).fetch(ATTEMPT).reason
    assert queue.told == [("failed", False, 60.0)]


def test_a_source_that_is_away_may_be_asked_once_more() -> None:
    queue = Queue()
    assert prefetcher(queue, ONE=Source(away=True)).fetch(ATTEMPT).reason == "away"
    assert queue.told == [("failed", True, 60.0)]


def test_a_source_that_is_one_no_more_is_not_asked() -> None:
    queue = Queue()
    assert "no source" in prefetcher(queue, TWO=Source()).fetch(ATTEMPT).reason
    assert queue.told == [("failed", False, 60.0)]


def test_nothing_is_fetched_for_a_claim_that_somebody_else_has_now() -> None:
    queue, source = Queue(claimed=False), Source()
    assert prefetcher(queue, ONE=source).fetch(ATTEMPT).reason
    assert (source.fetched, queue.told) == ([], [])
