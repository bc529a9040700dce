"""The steps of the `cleanup` and `undo-cleanup` flows."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from prefect import task

from pacs_core.errors import ConfigurationError
from pacs_core.lifecycle.moving import Moved
from pacs_core.lifecycle.plan import Plan, Step, capped
from pacs_core.lifecycle.retention import Retention
from pacs_core.lifecycle.rules import instances_named, plan_retention
from pacs_core.model import Change, Removed, RemovedState
from pacs_core.settings import Settings, load_settings
from pacs_core.wiring import operations
from tasks.connections import connections
from tasks.operation import catch_up, retried, rules_named
from tasks.policy import RETRIES

_AT_ONCE = 100  # objects that are destroyed or brought back while their studies are locked, and nobody can place a hold


@task(task_run_name="plan", **RETRIES)
def plan_cleanup(rule: str, max_studies: int | None) -> Plan:
    """What the rules of the settings, or one of them, ask for now. ConfigurationError if there is none of that name."""
    settings = load_settings()
    catch_up(settings)
    rules = rules_named(rule, operations.retention_rules(settings, datetime.now(UTC)), table="retentions")
    return capped(plan_retention(rules, connections(settings).reader.study_facts), studies=max_studies)


@task(task_run_name="shard {number}", **RETRIES)
def remove_shard(number: int, steps: Sequence[Step], run: str) -> Moved:  # noqa: ARG001 - the run is named after it
    """Take the studies of a shard out of the index, into quarantine, as far as the rules still name them."""
    settings = load_settings()
    (policy,) = {step.policy for step in steps}
    rule = next((each for each in settings.retentions if each.name == policy), None)
    if rule is None:
        raise ConfigurationError(f"retentions: there is no rule {policy} any more")
    now = datetime.now(UTC)
    change = Change(run=run, flow="cleanup", action="removed", policy=policy, at=now)
    rules = operations.retention_rules(settings, now)
    facts = connections(settings).reader.study_facts

    def named(step: Step) -> int:
        return instances_named(step, rules, partial(facts, study=step.StudyInstanceUID))

    destroy_after = now + timedelta(days=rule.undo_days)
    return retried(_retention(settings).remove(steps, change, destroy_after, named=named, require_copy=rule.require_copy))


@task(task_run_name="finish what was begun", **RETRIES)
def finish_removals(run: str) -> None:
    """What killed runs have taken out of the index goes into quarantine."""
    change = Change(run=run, flow="cleanup", action="removed", policy="finished", at=datetime.now(UTC))
    _retention(load_settings()).finish(change)


@task(task_run_name="destroy what is due", **RETRIES)
def destroy_due(run: str) -> Moved:
    """Destroy what has been in quarantine for its time."""
    change = Change(run=run, flow="cleanup", action="destroyed", policy="due", at=datetime.now(UTC))
    settings = load_settings()
    retention = _retention(settings)
    due = connections(settings).removals.all(RemovedState.QUARANTINED, due_at=datetime.now(UTC))
    return sum((retention.destroy(each, change) for each in _parts(due)), Moved())


@task(task_run_name="bring back {study}", **RETRIES)
def undo_study(study: str, run: str) -> Moved:
    """Bring back what is in quarantine of a study."""
    settings = load_settings()
    change = Change(run=run, flow="undo-cleanup", action="restored", policy="manual", at=datetime.now(UTC))
    retention, index = _retention(settings), connections(settings)
    removed = index.removals.all(RemovedState.QUARANTINED, studies=[study])
    return sum((retention.undo(each, change, index.writer) for each in _parts(removed)), Moved())


def _retention(settings: Settings) -> Retention:
    index = connections(settings)
    return operations.retention(settings, index.locations, index.removals)


def _parts(removed: Sequence[Removed]) -> Iterator[Sequence[Removed]]:
    return (removed[at : at + _AT_ONCE] for at in range(0, len(removed), _AT_ONCE))
