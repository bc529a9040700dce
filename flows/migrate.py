"""Migrate: studies move between tiers, by rules or by hand."""

from functools import partial
from typing import Annotated, Any, Literal

from prefect import State, flow
from prefect.states import Failed
from pydantic import Field

from flows.operation import begun, carry_out
from flows.reporting import RunRecord
from tasks.migration import migrate_shard, plan_by_rules, plan_study
from tasks.policy import archive_task_runner


@flow(name="migrate", task_runner=archive_task_runner(), validate_parameters=True)
def migrate(
    study: Annotated[str, Field(max_length=64, pattern=r"^[0-9.]*$")] = "",
    target: Literal["", "hot", "warm", "cold"] = "",  # a list to choose from, in the form
    rule: Annotated[str, Field(max_length=40)] = "",
    max_studies: Annotated[int | None, Field(ge=1)] = None,
    max_gigabytes: Annotated[float | None, Field(gt=0)] = None,
    keep_source: bool = False,
    dry_run: bool = False,
    plan: Annotated[str, Field(max_length=64)] = "",
) -> State[Any]:
    """Move studies to another tier: copy, verify at the destination, change the index, remove the old object.

    Without parameters it follows the rules `[[migrations]]` of the settings. May be run again at any time; a run that was killed is
    simply run again.

    Args:
        study: One study by its StudyInstanceUID, whatever the rules say. Needs a target.
        target: The tier that the study moves to, from wherever it is.
        rule: Follow only the rule of this name.
        max_studies: Move at most so many studies.
        max_gigabytes: Move at most so many gigabytes (of 10^9 bytes).
        keep_source: Leave the old objects where they are, as further copies.
        dry_run: Only plan: show which studies would move, and keep that plan.
        plan: The id of a dry run whose plan is followed instead of a new one.
    """
    parameters = {"study": study, "target": target, "rule": rule, "keep_source": keep_source, "dry_run": dry_run, "plan": plan}
    if bool(study) != bool(target):
        return Failed(message="study and target are given together: which study, and the tier it moves to")
    with RunRecord("migrate", parameters) as record:
        make = partial(plan_study, study, target) if study else partial(plan_by_rules, rule, max_studies, max_gigabytes)
        chosen = begun("migrate", record, plan, make, dry_run=dry_run)
        if study and not plan and not chosen.steps:
            return Failed(message=f"nothing of study {study} is held on another tier than {target}")
        return carry_out(
            "migrate",
            chosen,
            lambda number, steps: migrate_shard.submit(number, steps, record.run_id, keep_source=keep_source),
            record,
            dry_run=dry_run,
        )
