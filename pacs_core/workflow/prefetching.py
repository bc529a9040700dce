"""Priors are looked for at their sources, entered, and fetched: one study at a time for whoever claims it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import structlog

from pacs_core.errors import InvalidIdentifier, PacsError
from pacs_core.model import UID, Prior, PriorAttempt, PriorRequest
from pacs_core.workflow.prefetch import KnownStudy, PatientPlan, Policy, check, delay_after, plan

log = structlog.get_logger(__name__)


class PriorSource(Protocol):
    """A remote archive."""

    def find(self, request: PriorRequest, since: date) -> Sequence[KnownStudy]:
        """The patient's studies from that day to the day of the request. PeerUnavailable."""

    def fetch(self, study: UID, alive: Callable[[], object]) -> int:
        """Bring a study here; how many instances the source says came. `alive` is called with every sign of progress.

        PeerUnavailable if not all of it came.
        """


class HeldStudies(Protocol):
    """What is here."""

    def of_patient(self, request: PriorRequest, since: date) -> Sequence[KnownStudy]:
        """The patient's studies from that day to the day of the request."""

    def instances(self, studies: Sequence[UID]) -> Mapping[UID, int]:
        """How many instances are here of each; everything that was acknowledged is counted."""


class PriorQueue(Protocol):
    """Who is expected and what is to be fetched; see index.prefetches.Prefetches."""

    def settle(self, request: PriorRequest, state: str) -> None:
        """A request is planned or refused."""

    def enter(self, priors: Sequence[Prior], run: str) -> int:
        """Studies are to be fetched."""

    def renew(self, attempt: PriorAttempt) -> bool:
        """Whoever fetches is still at it; whether the claim holds."""

    def held(self, attempt: PriorAttempt, instances: int) -> None:
        """The study is here."""

    def failed(self, attempt: PriorAttempt, reason: str, *, may_repeat: bool, delay: float | None) -> None:
        """The source did not give it."""


@dataclass(frozen=True, slots=True)
class PlannedPatient:
    """What came of a request. Names nobody: it goes into logs and tables.

    Attributes:
        entered: studies that are newly to be fetched.
        away: sources that could not be asked, with the reason.
    """

    fetch: tuple[Prior, ...] = ()
    held: int = 0
    entered: int = 0
    away: tuple[tuple[str, str], ...] = ()
    refused: bool = False


@dataclass(frozen=True, slots=True)
class FetchedStudy:
    """What came of an attempt.

    Attributes:
        reason: why it failed; "" if the study is here.
    """

    StudyInstanceUID: UID
    source: str
    instances: int = 0
    reason: str = ""


class Prefetcher:
    """Plans and fetches. Thread-safe if its parts are.

    Args:
        sources: by AE title, in order of preference.
        run: what is entered is entered for.
    """

    def __init__(self, queue: PriorQueue, sources: Mapping[str, PriorSource], local: HeldStudies, run: str) -> None:
        self._queue = queue
        self._sources = sources
        self._local = local
        self._run = run

    def plan(self, request: PriorRequest, policy: Policy, *, dry_run: bool) -> PlannedPatient:
        """Look for a patient's priors, here and then at every source, and enter those that are to be fetched.

        A source that is away is left out; the request then stays, so that a later run asks it.
        """
        try:
            check(request)
        except InvalidIdentifier:
            if not dry_run:
                self._queue.settle(request, "refused")
            return PlannedPatient(refused=True)
        made, away = self._made(request, policy)
        if dry_run:
            return PlannedPatient(made.fetch, len(made.held), away=away)
        entered = self._queue.enter(made.fetch, self._run) if made.fetch else 0
        if not away:
            self._queue.settle(request, "planned")
        return PlannedPatient(made.fetch, len(made.held), entered, away)

    def fetch(self, attempt: PriorAttempt) -> FetchedStudy:
        """Fetch what was claimed, and settle the claim. Nothing is fetched for a claim that holds no more."""
        if not self._queue.renew(attempt):
            return FetchedStudy(attempt.StudyInstanceUID, attempt.source, reason="it has been claimed once more meanwhile")
        try:
            instances = self._fetched(attempt)
        except PacsError as exc:
            self._queue.failed(attempt, str(exc), may_repeat=exc.retryable, delay=delay_after(attempt.rounds))
            log.warning("prior_not_fetched", StudyInstanceUID=attempt.StudyInstanceUID, source=attempt.source, reason=str(exc))
            return FetchedStudy(attempt.StudyInstanceUID, attempt.source, reason=str(exc))
        self._queue.held(attempt, instances)
        log.info("prior_fetched", StudyInstanceUID=attempt.StudyInstanceUID, source=attempt.source, instances=instances)
        return FetchedStudy(attempt.StudyInstanceUID, attempt.source, instances)

    def _made(self, request: PriorRequest, policy: Policy) -> tuple[PatientPlan, tuple[tuple[str, str], ...]]:
        since = policy.since(request)
        local = self._local.of_patient(request, since)
        found: dict[str, Sequence[KnownStudy]] = {}
        away: list[tuple[str, str]] = []
        for name, source in self._sources.items():
            try:
                found[name] = source.find(request, since)
            except PacsError as exc:
                away.append((name, str(exc)))
                log.warning("prior_source_away", source=name, reason=str(exc))
        named = {study.StudyInstanceUID for studies in found.values() for study in studies}
        return plan(request, found, local, self._local.instances(sorted(named)), policy), tuple(away)

    def _fetched(self, attempt: PriorAttempt) -> int:
        """How many instances are here now, which is believed only of our own index."""
        source = self._sources.get(attempt.source)
        if source is None:
            raise PriorNotFetched(f"{attempt.source} is no source of priors any more")
        brought = source.fetch(attempt.StudyInstanceUID, lambda: self._queue.renew(attempt))
        here = self._local.instances([attempt.StudyInstanceUID]).get(attempt.StudyInstanceUID, 0)
        if not here or here < brought:
            raise PriorNotFetched(f"{attempt.source} says that it sent {brought} instances, and {here} are here; where does it send them?")
        return here


class PriorNotFetched(PacsError):
    """A source did not bring a study, and would not the next time either."""
