"""Archive: verified copies of studies at a destination, as objects or as one file a study; and back."""

from functools import partial
from typing import Annotated, Any

from prefect import State, flow
from prefect.states import Failed
from pydantic import Field

from flows.operation import begun, carry_out, told_of_study
from flows.reporting import RunRecord
from pacs_core.lifecycle.packaging import Form
from tasks.archival import archive_shard, plan_archive, plan_archive_study, restore_study
from tasks.policy import archive_task_runner


@flow(name="archive", task_runner=archive_task_runner(), validate_parameters=True)
def archive(
    study: Annotated[str, Field(max_length=64, pattern=r"^[0-9.]*$")] = "",
    destination: Annotated[str, Field(max_length=40)] = "",
    form: Form = Form.OBJECTS,
    rule: Annotated[str, Field(max_length=40)] = "",
    max_studies: Annotated[int | None, Field(ge=1)] = None,
    dry_run: bool = False,
    plan: Annotated[str, Field(max_length=64)] = "",
) -> State[Any]:
    """Copy studies to an archive destination and verify them there. What is held stays where it is.

    Without parameters it follows the rules `[[archivals]]` of the settings. A package has a manifest of the checksums of its members
    and is read back whole before it counts. `verify` looks after copies, `cleanup` may rely on them.

    Args:
        study: One study by its StudyInstanceUID, whatever the rules say. Needs a destination.
        destination: A name of `archives` in the settings, or a tier.
        form: For one study: its objects, or one zip or tar file.
        rule: Follow only the rule of this name.
        max_studies: Archive at most so many studies.
        dry_run: Only plan: show which studies would be archived, and keep that plan.
        plan: The id of a dry run whose plan is followed instead of a new one.
    """
    parameters = {"study": study, "destination": destination, "form": form.value, "rule": rule, "dry_run": dry_run, "plan": plan}
    if bool(study) != bool(destination):
        return Failed(message="study and destination are given together: which study, and where its copy is made")
    with RunRecord("archive", parameters) as record:
        make = partial(plan_archive_study, study, destination) if study else partial(plan_archive, rule, max_studies)
        chosen = begun("archive", record, plan, make, dry_run=dry_run)
        if study and not plan and not chosen.steps:
            return Failed(message=f"nothing is held of study {study}")
        return carry_out(
            "archive", chosen, lambda number, steps: archive_shard.submit(number, steps, record.run_id, form), record, dry_run=dry_run
        )


@flow(name="restore-archived", task_runner=archive_task_runner(), validate_parameters=True)
def restore_archived(study: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9.]+$")]) -> State[Any]:
    """Bring back, from its archived copies, what is no longer held of a study.

    Args:
        study: Its StudyInstanceUID.
    """
    with RunRecord("restore-archived", {"study": study}) as record:
        return told_of_study(restore_study(study, record.run_id), record, nothing=f"study {study} has no copy of anything that is not held")
