"""Cleanup: retention. Studies leave the archive by rules, stay in quarantine for a while, and are then destroyed or brought back."""

from functools import partial
from typing import Annotated, Any

from prefect import State, flow
from pydantic import Field

from flows.operation import begun, carry_out, told_of_study
from flows.reporting import RunRecord
from tasks.policy import archive_task_runner
from tasks.retention import destroy_due, finish_removals, plan_cleanup, remove_shard, undo_study


@flow(name="cleanup", task_runner=archive_task_runner(), validate_parameters=True)
def cleanup(
    rule: Annotated[str, Field(max_length=40)] = "",
    max_studies: Annotated[int | None, Field(ge=1)] = None,
    dry_run: bool = False,
    plan: Annotated[str, Field(max_length=64)] = "",
) -> State[Any]:
    """Remove studies by the rules `[[retentions]]` of the settings, into quarantine; destroy what has been there for its time.

    A study on hold is never removed, whenever the hold was placed, and neither is one that its rule no longer names when its turn comes.
    Where a rule requires a copy, that is read before. Until it is destroyed a study can be brought back with `undo-cleanup`.

    Args:
        rule: Follow only the rule of this name.
        max_studies: Remove at most so many studies.
        dry_run: Only plan: show which studies would be removed, and keep that plan.
        plan: The id of a dry run whose plan is followed instead of a new one, as far as the rules still ask for it.
    """
    parameters = {"rule": rule, "max_studies": max_studies, "dry_run": dry_run, "plan": plan}
    with RunRecord("cleanup", parameters) as record:
        if not dry_run:
            finish_removals(record.run_id)
            destroy_due(record.run_id)
        chosen = begun("cleanup", record, plan, partial(plan_cleanup, rule, max_studies), dry_run=dry_run)
        return carry_out(
            "cleanup", chosen, lambda number, steps: remove_shard.submit(number, steps, record.run_id), record, dry_run=dry_run
        )


@flow(name="undo-cleanup", task_runner=archive_task_runner(), validate_parameters=True)
def undo_cleanup(study: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9.]+$")]) -> State[Any]:
    """Bring a study back that `cleanup` has removed and not yet destroyed.

    Args:
        study: Its StudyInstanceUID.
    """
    with RunRecord("undo-cleanup", {"study": study}) as record:
        return told_of_study(undo_study(study, record.run_id), record, nothing=f"nothing of study {study} is in quarantine")
