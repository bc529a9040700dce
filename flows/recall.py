"""Recall: studies that a retrieve found in an archive class are asked for, and noted when they can be read."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from prefect import State, flow
from prefect.states import Completed, Failed
from pydantic import BaseModel, Field

from flows.reporting import RunRecord, publish_summary, publish_table
from pacs_core.lifecycle.recalling import RecalledStudy
from pacs_core.model import parse_uid
from tasks.policy import archive_task_runner
from tasks.recalling import recall_wanted, want


class Recalled(BaseModel):
    """What a run did, for the record."""

    studies: int = 0
    available: int = 0  # of these, all of which can be read now
    asked: int = 0  # objects that their provider was asked for
    rehydrating: int = 0  # objects that it had been asked for before
    missing: int = 0
    failed: int = 0  # objects that could not be asked for

    @classmethod
    def of(cls, results: Sequence[RecalledStudy]) -> "Recalled":
        """The sum."""
        figures = {name: sum(getattr(each, name) for each in results) for name in ("asked", "rehydrating", "missing", "failed")}
        return cls(studies=len(results), available=sum(each.available for each in results), **figures)

    @property
    def sentence(self) -> str:
        """The outcome as the state message says it."""
        if not self.studies:
            return "no study is wanted"
        told = f"{self.available} of {self.studies} studies can be read; {self.asked} objects were asked for, {self.rehydrating} before"
        return f"{self.failed} objects could not be asked for; {told}" if self.failed else told


@flow(name="recall", task_runner=archive_task_runner(), validate_parameters=True)
def recall(study: Annotated[str, Field(max_length=64, pattern=r"^[0-9.]*$")] = "", dry_run: bool = False) -> State[Any]:
    """Ask the providers of archived objects for the studies that somebody wanted; note which of them can be read now.

    A retrieve of an archived study fails, enters it here and starts this. Waits for nothing: the next run looks again.
    Ends Failed if a provider could not be asked. May be run again at any time.

    Args:
        study: A StudyInstanceUID that is wanted too, as if it had been retrieved.
        dry_run: Only look: say what would be asked for.
    """
    with RunRecord("recall", {"study": study, "dry_run": dry_run}) as record:
        if study and not dry_run:
            want(parse_uid(study, name="study"))
        results = recall_wanted.submit(dry_run=dry_run).result()
        result = Recalled.of(results)
        sentence = f"dry run: {result.sentence}" if dry_run else result.sentence
        _publish(results)
        publish_summary("recall-summary", "Recall", sentence, result.model_dump())
        outcome = "failed" if result.failed else "planned" if dry_run else "completed"
        record.finish(outcome, result.model_dump())
    return Failed(message=sentence) if result.failed else Completed(message=sentence)


def _publish(results: Sequence[RecalledStudy]) -> None:
    publish_table("recall-studies", f"{len(results)} studies", [{**asdict(each), "available": each.available} for each in results])
