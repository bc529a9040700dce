"""What the steps of every operation on studies share."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from prefect import task
from prefect.runtime import task_run

from pacs_core.errors import ConfigurationError, IndexUnavailable, StorageUnavailable
from pacs_core.lifecycle.moving import Moved
from pacs_core.lifecycle.plan import Plan
from pacs_core.lifecycle.rules import ArchivalRule, MigrationRule, RetentionRule, Selection, steps_of
from pacs_core.model import Change
from pacs_core.ports import StudyTotals
from pacs_core.settings import Settings, load_settings
from pacs_core.wiring import index, intake, operations
from tasks.connections import connections
from tasks.policy import RETRIES

AnyRule = TypeVar("AnyRule", MigrationRule, RetentionRule, ArchivalRule)

# A shard is what a cancelled run still ends, some five seconds of small objects; it costs Prefect's server some 130 ms of CPU.
SHARD_INSTANCES = 1000
SHARD_BYTES = 256 * 1024**2
_JOURNAL_PATIENCE = 60.0  # seconds


@task(task_run_name="settle what was left", **RETRIES)
def settle_left(run: str, flow: str) -> None:
    """What killed runs have left on its way is settled, of all studies that nobody works on."""
    settings = load_settings()
    change = Change(run=run, flow=flow, action="settled", policy="left", at=datetime.now(UTC))
    operations.mover(settings, connections(settings).locations).settle_left(change)


def rules_named(name: str, rules: Iterable[AnyRule], *, table: str) -> Sequence[AnyRule]:
    """The rules of a table of the settings, or with a name only that one. ConfigurationError if there is none."""
    chosen = [rule for rule in rules if name in ("", rule.name)]
    if name and not chosen:
        raise ConfigurationError(f"{table}: there is no rule {name}")
    return chosen


def one_study(settings: Settings, study: str, target: str) -> Plan:
    """One study, from all tiers it is on to another, or to a destination, whatever the rules say."""
    catch_up(settings)
    facts = connections(settings).reader.study_facts
    steps = [
        step
        for tier in settings.tiers
        if tier != target
        for step in steps_of("manual", target, Selection(study=study), facts(tier, study=study))
    ]
    return Plan(tuple(steps))


def keep_plan(run: str, flow: str, plan: Plan) -> None:
    """Keep a dry run's plan for a real run."""
    index.plans(load_settings()).put(run, flow, plan.to_json())


def kept_plan(run: str, flow: str) -> Plan:
    """The plan that a dry run has kept. NotFound."""
    return Plan.from_json(index.plans(load_settings()).get(run, flow))


def run_totals(run: str) -> Sequence[StudyTotals]:
    """What a run has done so far, attempts that broke off included."""
    return connections(load_settings()).locations.totals(run)


def retried(result: Moved) -> Moved:
    """The result, unless repeating the task may do what is left: then it is repeated. To be the last call of a task."""
    failures = [failure for failure in result.failures if failure.retryable]
    if failures and task_run.run_count <= RETRIES["retries"]:
        raise StorageUnavailable(f"{len(failures)} objects could not be done: {failures[0].reason}")
    return result


def catch_up(settings: Settings) -> None:
    """What is acknowledged is in the index: a plan sees it, and no object that moves is placed once more out of the journal.

    IndexUnavailable if that takes too long.
    """
    if not intake.catch_up(settings, patience=_JOURNAL_PATIENCE):
        raise IndexUnavailable("the index does not catch up with what has been acknowledged; is a committer running?")
