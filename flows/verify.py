"""Verify: is everything that is held what was stored, and does the index know all of it?"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

from prefect import State, flow, unmapped
from prefect.futures import as_completed
from prefect.states import Completed, Failed
from pydantic import BaseModel, Field

from flows.reporting import Progress, RunRecord, publish_problems, publish_summary
from pacs_core.archive.verification import Damage, ShardReport
from pacs_core.index.reader import Shard
from pacs_core.model import parse_uid
from tasks.policy import archive_task_runner
from tasks.verification import find_orphans, plan_shards, study_shard, tiers, verify_shard


class Scope(StrEnum):
    """What a run looks at."""

    ALL = "all"
    STUDY = "study"
    SAMPLE = "sample"


class Verified(BaseModel):
    """What a run found, for the record."""

    instances: int = 0
    bytes_read: int = 0
    shards: int = 0
    unfinished: int = 0  # shards that could not be checked
    missing: int = 0
    corrupt: int = 0
    unreadable: int = 0
    orphan: int = 0

    @property
    def damaged(self) -> int:
        """Objects that are not as they should be."""
        return self.missing + self.corrupt + self.unreadable + self.orphan

    @property
    def sentence(self) -> str:
        """The outcome as the state message says it."""
        if self.damaged:
            kinds = ", ".join(f"{count} {kind}" for kind in Damage if (count := getattr(self, kind)))
            return f"{self.damaged} objects are damaged: {kinds} (of {self.instances} checked)"
        if self.unfinished:
            return f"{self.unfinished} of {self.shards} shards could not be checked"
        return f"{self.instances} objects are intact"


@flow(name="verify", task_runner=archive_task_runner(), validate_parameters=True)
def verify(
    scope: Scope = Scope.ALL,
    study: Annotated[str, Field(max_length=64, pattern=r"^[0-9.]*$")] = "",
    sample_percent: Annotated[float, Field(gt=0, le=100)] = 10.0,
    dry_run: bool = False,
) -> State[Any]:
    """Read stored objects and compare them with their SHA-256; compare index and storage both ways.

    Ends Failed if anything is damaged, missing or unknown to the index, so that it cannot be overlooked. Changes
    nothing but the time of last verification of what was intact; may be run again at any time.

    Args:
        scope: all: every object; study: one study; sample: a random part of every study.
        study: The StudyInstanceUID, for the scope study.
        sample_percent: For the scope sample: how many of 100 objects are read; the others need only be there.
        dry_run: Only plan: say how much would be read.
    """
    parameters = {"scope": scope.value, "study": study, "sample_percent": sample_percent, "dry_run": dry_run}
    if (scope is Scope.STUDY) != bool(study):
        return Failed(message="the scope study needs a StudyInstanceUID, and no other scope takes one")
    with RunRecord("verify", parameters) as record:
        shards = [study_shard(parse_uid(study, name="study"))] if scope is Scope.STUDY else plan_shards()
        if dry_run:
            return _planned(shards, record)
        report, unfinished = _verify(shards, sample_percent if scope is Scope.SAMPLE else 100.0, every_tier=scope is not Scope.STUDY)
        if scope is Scope.STUDY and not report.checked and not unfinished:
            return Failed(message=f"nothing is held of study {study}")
        result = _result(report, shards=len(shards), unfinished=unfinished)
        publish_problems("verify-problems", report.problems)
        publish_summary("verify-summary", "Verification", result.sentence, result.model_dump())
        record.finish("completed" if not result.damaged and not unfinished else "failed", result.model_dump())
    return Failed(message=result.sentence) if result.damaged or unfinished else Completed(message=result.sentence)


def _planned(shards: Sequence[Shard], record: RunRecord) -> State[Any]:
    figures = {"shards": len(shards), "instances": sum(each.instances for each in shards), "bytes": sum(each.bytes for each in shards)}
    sentence = f"dry run: {figures['instances']} objects in {len(shards)} shards would be verified"
    publish_summary("verify-summary", "Verification", sentence, figures)
    record.finish("planned", figures)
    return Completed(message=sentence)


def _verify(shards: Sequence[Shard], percent: float, *, every_tier: bool) -> tuple[ShardReport, int]:
    """All shards, then what storage holds beyond the index; the sum of the reports, and how many steps failed."""
    futures = [*verify_shard.map(list(range(1, len(shards) + 1)), list(shards), unmapped(percent))]
    if every_tier:
        futures += find_orphans.map(tiers())
    progress = Progress("verify-progress", len(futures))
    total, unfinished = ShardReport(), 0
    for future in as_completed(futures):
        future.wait()
        if future.state.is_completed():
            total += future.result()
        else:
            unfinished += 1
        progress.step()
    return total, unfinished


def _result(report: ShardReport, *, shards: int, unfinished: int) -> Verified:
    counts = {damage.value: report.count(damage) for damage in Damage}
    return Verified(instances=report.checked, bytes_read=report.bytes_read, shards=shards, unfinished=unfinished, **counts)
