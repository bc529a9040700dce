"""Prefetch: earlier studies of patients who are expected are fetched from other archives."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import structlog
from prefect import Flow, State, flow
from prefect.client.schemas.objects import FlowRun
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed
from pydantic import BaseModel, Field

from flows.reporting import RunRecord, gathered, publish_summary, publish_table
from pacs_core.model import PriorAttempt, PriorRequest
from pacs_core.workflow.prefetch import Policy, Relevance
from pacs_core.workflow.prefetching import FetchedStudy, PlannedPatient
from tasks.policy import waiting_task_runner
from tasks.prefetching import claim_next, expected, fetch_study, is_configured, plan_patients, prefetch_at_once

log = structlog.get_logger(__name__)

_PATIENTS = 20  # of one task: some seconds of C-FIND
_PATIENCE = 70.0  # seconds; longer than the pace ever makes a study wait. What is to be tried again later is left to a later run


class Prefetched(BaseModel):
    """What a run did, for the record."""

    patients: int = 0
    refused: int = 0  # of these, with a PatientID that cannot be asked for
    planned: int = 0  # studies that their sources have, and we have not whole
    held: int = 0  # relevant studies that were here
    entered: int = 0  # of the planned, those that nobody had entered before
    fetched: int = 0
    instances: int = 0  # of these
    failed_attempts: int = 0
    sources_away: int = 0
    broken: int = 0  # tasks that broke off

    @property
    def sentence(self) -> str:
        """The outcome as the state message says it."""
        told = (
            f"{self.fetched} studies with {self.instances} instances were fetched; {self.patients} patients, {self.held} priors were here"
        )
        troubles = {
            "attempts failed": self.failed_attempts,
            "sources are away": self.sources_away,
            "patients could not be asked for": self.refused,
            "steps broke off": self.broken,
        }
        return "; ".join([told, *(f"{count} {what}" for what, count in troubles.items() if count)])


def tell_outcome(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """The hook of every run, on completion and on failure: one event in the log of the flow runner. Hooks of others come beside it."""
    log.info("prefetch_ended", flow=flow.name, run=str(flow_run.id), state=state.name)


@flow(
    name="prefetch",
    task_runner=waiting_task_runner(),
    validate_parameters=True,
    on_completion=[tell_outcome],
    on_failure=[tell_outcome],
)
def prefetch(
    hours: Annotated[float, Field(gt=0, le=24 * 14)] = 24,
    lookback_days: Annotated[int, Field(ge=1, le=36_500)] = 365,
    max_studies: Annotated[int, Field(ge=1, le=1000)] = 10,
    modality: Relevance = "prefer",
    body_part: Relevance = "prefer",
    dry_run: bool = False,
) -> State[Any]:
    """Fetch the priors of patients who are expected: those whom a worklist query has named, and those who are scheduled soon.

    Sources, and how fast they are asked, are in the settings: `[[prefetch_sources]]`, `prefetch_per_minute` and `prefetch_at_once`.
    What is here whole is not fetched, and no study twice, however often this runs; a run that was killed is simply run again.

    Args:
        hours: Patients of worklist items that begin within so many hours.
        lookback_days: How old a prior may be.
        max_studies: At most so many studies of a patient, what is here already among them.
        modality: Studies of the modality that is scheduled come first (prefer), alone (only), or it does not matter (any).
        body_part: The same for the body part, where the worklist names one.
        dry_run: Only plan: show what would be fetched.
    """
    if not is_configured():
        return Completed(message="there is no source: see [[prefetch_sources]] in the documentation of the settings")
    policy = Policy(lookback_days, max_studies, modality, body_part)
    with RunRecord("prefetch", {"hours": hours, **asdict(policy), "dry_run": dry_run}) as record:
        planned, broken = _plan(hours, policy, record, dry_run=dry_run)
        fetched: list[FetchedStudy] = []
        if not dry_run:
            for future in _fetching(record.run_id):
                if future.state.is_completed():
                    fetched.append(future.result())
                else:
                    broken += 1
        return _told(planned, fetched, broken, record, dry_run=dry_run)


def _plan(hours: float, policy: Policy, record: RunRecord, *, dry_run: bool) -> tuple[list[PlannedPatient], int]:
    """What is wanted for each patient, and how many steps of finding that out broke off."""
    requests: Sequence[PriorRequest] = expected.submit(hours, dry_run=dry_run).result()
    parts = [requests[at : at + _PATIENTS] for at in range(0, len(requests), _PATIENTS)]
    futures = [plan_patients.submit(number, part, policy, record.run_id, dry_run=dry_run) for number, part in enumerate(parts, start=1)]
    results, broken = gathered("prefetch-progress", futures)
    planned = [each for part in results for each in part]
    rows = [{**asdict(prior), "sources": ", ".join(prior.sources)} for each in planned for prior in each.fetch]
    publish_table("prefetch-plan", f"{len(rows)} studies of {len(planned)} patients", rows)
    return planned, broken


def _fetching(run: str) -> Iterator[PrefectFuture[Any]]:
    """Fetch what is claimed, some at once, until nothing is left that may be fetched soon; the futures as they complete."""
    pending: set[PrefectFuture[Any]] = set()
    while True:
        claimed = claim_next(run) if len(pending) < prefetch_at_once() else 0.0
        if isinstance(claimed, PriorAttempt):
            pending.add(fetch_study.submit(claimed, run))
        elif pending:
            done = next(iter(as_completed(list(pending))))
            done.wait()
            pending.remove(done)
            yield done
        elif claimed is None or claimed > _PATIENCE:
            return
        else:
            time.sleep(claimed)


def _told(
    planned: Sequence[PlannedPatient], fetched: Sequence[FetchedStudy], broken: int, record: RunRecord, *, dry_run: bool
) -> State[Any]:
    result = Prefetched(
        patients=len(planned),
        refused=sum(each.refused for each in planned),
        planned=sum(len(each.fetch) for each in planned),
        held=sum(each.held for each in planned),
        entered=sum(each.entered for each in planned),
        fetched=sum(not each.reason for each in fetched),
        instances=sum(each.instances for each in fetched),
        failed_attempts=sum(bool(each.reason) for each in fetched),
        sources_away=len({source for each in planned for source, _ in each.away}),
        broken=broken,
    )
    away = [{"source": source, "reason": reason} for source, reason in {pair: None for each in planned for pair in each.away}]
    sentence = f"dry run: {result.planned} studies of {result.patients} patients" if dry_run else result.sentence
    publish_table("prefetch-result", sentence, [*(asdict(each) for each in fetched), *away])
    publish_summary("prefetch-summary", "Prefetch", sentence, result.model_dump())
    is_whole = not (broken or (result.failed_attempts and not result.fetched))
    record.finish("planned" if dry_run else "completed" if is_whole else "failed", result.model_dump())
    return Completed(message=sentence) if is_whole else Failed(message=sentence)
