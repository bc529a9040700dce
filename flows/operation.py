"""What every operation on studies does: show its plan, follow it shard by shard, say what came of it.

Shards are handed out a few at a time, so that a run that is paused or cancelled stops within the shards that are at work.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import count
from typing import Any
from uuid import UUID

from prefect import State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import Pause
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.reporting import Progress, RunRecord, publish_summary, publish_table
from pacs_core.lifecycle.moving import Failure, Moved
from pacs_core.lifecycle.plan import Plan, Step
from pacs_core.settings import load_settings
from tasks.operation import SHARD_BYTES, SHARD_INSTANCES, keep_plan, kept_plan, run_totals, settle_left

_LOOK_AGAIN = 2.0  # seconds, while a run is paused
_PAUSES = (0.0, 2.0, 10.0, 30.0)  # seconds, before studies that others are at work on are tried again

# Hands a shard, by its number and its steps, to the task runner.
Submit = Callable[[int, Sequence[Step]], PrefectFuture[Any]]


def begun(flow: str, record: RunRecord, plan: str, make: Callable[[], Plan], *, dry_run: bool) -> Plan:
    """The plan to carry out: the one that a dry run of that id has kept, or one made now. Killed runs are settled before, if not dry."""
    if not dry_run:
        settle_left(record.run_id, flow)
    return kept_plan(plan, flow) if plan else make()


def carry_out(flow: str, plan: Plan, submit: Submit, record: RunRecord, *, dry_run: bool) -> State[Any]:
    """Follow a plan, or with `dry_run` only show and keep it. Failed if anything could not be done; the rest is done all the same."""
    publish_table(
        f"{flow}-plan", f"{len(plan.steps)} studies, {plan.instances} instances, {plan.bytes} bytes", [asdict(step) for step in plan.steps]
    )
    if dry_run:
        return _planned(flow, plan, record)
    progress = Progress(f"{flow}-progress", len(plan.shards(instances=SHARD_INSTANCES, bytes=SHARD_BYTES)))
    result, broken = follow(plan, submit, progress.step)
    return _told(flow, result, broken, record)


def told_of_study(result: Moved, record: RunRecord, *, nothing: str) -> State[Any]:
    """What came of bringing a study back: Failed if anything could not be, or, with that message, if there was nothing."""
    figures = {"instances": result.instances, "bytes": result.bytes, "failed": len(result.failures)}
    record.finish("completed" if result.instances and not result.failures else "failed", figures)
    if result.busy:
        return Failed(message="another run works on this study; try again when it is done")
    if result.failures:
        return Failed(message=f"{result.instances} instances are back, {len(result.failures)} are not: {result.failures[0].reason}")
    return Completed(message=f"{result.instances} instances are back") if result.instances else Failed(message=nothing)


def _planned(flow: str, plan: Plan, record: RunRecord) -> State[Any]:
    keep_plan(record.run_id, flow, plan)
    figures = {"studies": len(plan.steps), "instances": plan.instances, "bytes": plan.bytes, "plan": record.run_id}
    sentence = f"dry run: {len(plan.steps)} studies with {plan.instances} instances; to do just that, run with plan={record.run_id}"
    publish_summary(f"{flow}-summary", flow.capitalize(), sentence, figures)
    record.finish("planned", figures)
    return Completed(message=sentence)


def follow(plan: Plan, submit: Submit, stepped: Callable[[], None], *, pauses: Sequence[float] = _PAUSES) -> tuple[Moved, int]:
    """The sum of what the shards report, and how many of them broke off.

    Studies that others were at work on are tried again in the end, after each of the pauses: another shard of this run may have had them,
    or what a killed run had begun on a worker. What is busy even then is told.
    """
    at_once = 2 * load_settings().dask_workers
    numbers = count(1)
    total, broken, steps = Moved(), 0, plan.steps
    for pause in (0.0, *pauses):
        time.sleep(pause)
        busy: list[Step] = []
        shards = Plan(steps).shards(instances=SHARD_INSTANCES, bytes=SHARD_BYTES)
        for shard, future in _completed(shards, lambda shard: submit(next(numbers), shard), at_once=at_once):
            if future.state.is_completed():
                result: Moved = future.result()
                total += replace(result, busy=())
                busy += [step for step in shard if step.StudyInstanceUID in result.busy]
            else:
                broken += 1
            stepped()
        steps = tuple(busy)
        if not steps:
            break
    return total + Moved(busy=tuple(dict.fromkeys(step.StudyInstanceUID for step in steps))), broken


def _completed(
    shards: Sequence[Sequence[Step]], submit: Callable[[Sequence[Step]], PrefectFuture[Any]], *, at_once: int
) -> Iterator[tuple[Sequence[Step], PrefectFuture[Any]]]:
    """The shards with their futures as they complete, with so many at work; none is begun while the run is paused."""
    pending: dict[PrefectFuture[Any], Sequence[Step]] = {}
    run = flow_run.get_id()
    with get_client(sync_client=True) if run else nullcontext() as client:
        for steps in shards:
            while len(pending) >= at_once:
                yield _first(pending)
            if client:
                _wait_while_paused(client, UUID(run), pending)
            pending[submit(steps)] = steps
        while pending:
            yield _first(pending)


def _first(pending: dict[PrefectFuture[Any], Sequence[Step]]) -> tuple[Sequence[Step], PrefectFuture[Any]]:
    done = next(iter(as_completed(list(pending))))
    done.wait()
    return pending.pop(done), done


def _wait_while_paused(client: SyncPrefectClient, run: UUID, pending: Iterable[PrefectFuture[Any]]) -> None:
    """Return once the run may go on. Pause, if it is to be started anew for that; what is at work is finished before."""
    while (state := client.read_flow_run(run).state) is not None and state.is_paused():
        if state.state_details.pause_reschedule:
            for future in pending:
                future.wait()
            raise Pause(state=state)
        time.sleep(_LOOK_AGAIN)


def _told(flow: str, result: Moved, broken: int, record: RunRecord) -> State[Any]:
    totals = [asdict(total) for total in run_totals(record.run_id)]
    figures: Mapping[str, object] = {
        "studies": sum(total["studies"] for total in totals),
        "instances": sum(total["instances"] for total in totals),
        "bytes": sum(total["bytes"] for total in totals),
        "busy": len(result.busy),
        "failed": len(result.failures),
        "broken_shards": broken,
    }
    sentence = _sentence(figures, result.failures)
    publish_table(f"{flow}-result", sentence, totals)
    publish_table(f"{flow}-failures", f"{len(result.failures)} failures", [asdict(failure) for failure in result.failures])
    publish_summary(f"{flow}-summary", flow.capitalize(), sentence, figures)
    is_whole = not result.failures and not broken
    record.finish("completed" if is_whole else "failed", figures)
    return Completed(message=sentence) if is_whole else Failed(message=sentence)


def _sentence(figures: Mapping[str, object], failures: Sequence[Failure]) -> str:
    done = f"{figures['instances']} instances of {figures['studies']} studies done"
    if figures["busy"]:
        done += f"; {figures['busy']} studies are left to another run"
    if failures:
        reason, count = Counter(failure.reason for failure in failures).most_common(1)[0]
        done += f"; {len(failures)} failed, {count} of them: {reason}"
    if figures["broken_shards"]:
        done += f"; {figures['broken_shards']} shards broke off"
    return done
