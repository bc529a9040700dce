"""The steps of the `prefetch` flow."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta

from prefect import task

from pacs_core.model import PriorAttempt, PriorRequest
from pacs_core.settings import load_settings
from pacs_core.wiring import exchange, index
from pacs_core.workflow.prefetch import Policy
from pacs_core.workflow.prefetching import FetchedStudy, PlannedPatient
from tasks.connections import connections
from tasks.policy import RETRIES

_ALREADY_BEGUN = timedelta(hours=2)  # a step that should have begun is often late


@task(task_run_name="who is expected", **RETRIES)
def expected(hours: float, *, dry_run: bool) -> Sequence[PriorRequest]:
    """Enter who is scheduled within the next hours; whose priors are wanted now.

    A dry run enters nobody: it returns them together with those who are entered already.
    """
    settings, now = load_settings(), datetime.now(UTC)
    with closing(index.prefetches(settings)) as queue:
        scheduled = queue.scheduled(now - _ALREADY_BEGUN, now + timedelta(hours=hours))
        if dry_run:
            return list(dict.fromkeys([*queue.wanted(), *scheduled]))
        queue.expire((now - timedelta(days=1)).date())  # west of Greenwich a day ends later
        queue.request(scheduled)
        return queue.wanted()


@task(task_run_name="plan {number}", **RETRIES)
def plan_patients(number: int, requests: Sequence[PriorRequest], policy: Policy, run: str, *, dry_run: bool) -> Sequence[PlannedPatient]:  # noqa: ARG001 - the run is named after it
    """What is to be fetched for each of some patients."""
    settings = load_settings()
    with (
        closing(index.prefetches(settings)) as queue,
        exchange.prefetcher(settings, queue, connections(settings).reader, run) as prefetcher,
    ):
        return [prefetcher.plan(request, policy, dry_run=dry_run) for request in requests]


@task(task_run_name="{attempt.StudyInstanceUID} from {attempt.source}", **RETRIES)
def fetch_study(attempt: PriorAttempt, run: str) -> FetchedStudy:
    """Fetch what was claimed. A source that fails is an outcome, and not an error that is repeated here: its turn comes again."""
    settings = load_settings()
    with (
        closing(index.prefetches(settings)) as queue,
        exchange.prefetcher(settings, queue, connections(settings).reader, run) as prefetcher,
    ):
        return prefetcher.fetch(attempt)


def claim_next(run: str) -> PriorAttempt | float | None:
    """A study that may be fetched now; else in how many seconds to ask again, or None if nothing is left."""
    settings = load_settings()
    with closing(index.prefetches(settings)) as queue:
        return queue.claim(exchange.pace(settings), run)


def is_configured() -> bool:
    """Whether there is any source."""
    return bool(load_settings().prefetch_sources)


def prefetch_at_once() -> int:
    """How many studies are fetched at once."""
    return load_settings().prefetch_at_once
