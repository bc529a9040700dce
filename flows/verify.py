"""Verify: is everything that is held what was stored, and does the index know all of it?"""

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

from prefect import State, flow, unmapped
from prefect.states import Completed, Failed
from pydantic import BaseModel, Field

from flows.reporting import RunRecord, gathered, publish_problems, publish_summary, publish_table
from pacs_core.archive.verification import Damage
from pacs_core.index.reader import Shard
from pacs_core.model import parse_uid
from tasks.policy import archive_task_runner
from tasks.verification import Verified, find_orphans, plan_shards, study_shard, tier_names, verify_shard


class Scope(StrEnum):
    """What a run looks at."""

    ALL = "all"
    STUDY = "study"
    SAMPLE = "sample"
    ROLLING = "rolling"


class Verification(BaseModel):
    """What a run found, for the record."""

    instances: int = 0
    bytes_read: int = 0
    shards: int = 0
    unfinished: int = 0  # shards that could not be checked
    missing: int = 0
    corrupt: int = 0
    unreadable: int = 0
    orphan: int = 0
    inconsistent: int = 0
    repaired: int = 0

    @property
    def damaged(self) -> int:
        """What was not as it should be."""
        return self.missing + self.corrupt + self.unreadable + self.orphan + self.inconsistent

    @property
    def is_well(self) -> bool:
        """Whether everything that was looked at is as it should be now."""
        return self.damaged == self.repaired and not self.unfinished

    @property
    def sentence(self) -> str:
        """The outcome as the state message says it."""
        if self.damaged:
            kinds = ", ".join(f"{count} {kind}" for kind in Damage if (count := getattr(self, kind)))
            repaired = f"; {self.repaired} are repaired" if self.repaired else ""
            return f"{self.damaged} objects are damaged: {kinds} (of {self.instances} checked){repaired}"
        if self.unfinished:
            return f"{self.unfinished} of {self.shards} shards could not be checked"
        return f"{self.instances} objects are intact"


@flow(name="verify", task_runner=archive_task_runner(), validate_parameters=True)
def verify(
    scope: Scope = Scope.ALL,
    study: Annotated[str, Field(max_length=64, pattern=r"^[0-9.]*$")] = "",
    sample_percent: Annotated[float, Field(gt=0, le=100)] = 10.0,
    rolling_percent: Annotated[float, Field(gt=0, le=100)] = 5.0,
    repair: bool = False,
    dry_run: bool = False,
) -> State[Any]:
    """Read what is held, its copies, and what is in quarantine, and compare it with its SHA-256; compare index and storage both ways.

    Ends Failed if anything is damaged, missing, unknown to the index or told differently by its two halves, and not repaired, so
    that it cannot be overlooked. May be run again at any time. What is in an archive class is left out.

    Args:
        scope: all: every object; study: one study; sample: a random part of every study; rolling: the share that was longest not verified.
        study: The StudyInstanceUID, for the scope study.
        sample_percent: For the scope sample: how many of 100 objects are read; the others need only be there.
        rolling_percent: For the scope rolling: how much of all bytes; 5 a day is everything in twenty days.
        repair: Write damaged and missing objects anew where another good copy is held, and rows of the lake where the keys differ.
        dry_run: Only plan: say how much would be read.
    """
    parameters = {"scope": scope.value, "study": study, "sample_percent": sample_percent, "repair": repair, "dry_run": dry_run}
    if (scope is Scope.STUDY) != bool(study):
        return Failed(message="the scope study needs a StudyInstanceUID, and no other scope takes one")
    with RunRecord("verify", parameters) as record:
        shards = _plan(scope, study, rolling_percent)
        if dry_run:
            return _planned(shards, record)
        percent = sample_percent if scope is Scope.SAMPLE else 100.0
        found, unfinished = _verify(shards, percent, record.run_id, repair=repair, every_tier=scope in (Scope.ALL, Scope.SAMPLE))
        if scope is Scope.STUDY and not found.report.checked and not unfinished:
            return Failed(message=f"nothing is held of study {study}")
        result = _result(found, shards=len(shards), unfinished=unfinished)
        publish_problems("verify-problems", found.report.problems)
        publish_table("verify-unrepaired", f"{len(found.unrepaired)} not repaired", [asdict(each) for each in found.unrepaired])
        publish_summary("verify-summary", "Verification", result.sentence, result.model_dump())
        record.finish("completed" if result.is_well else "failed", result.model_dump())
    return Completed(message=result.sentence) if result.is_well else Failed(message=result.sentence)


def _plan(scope: Scope, study: str, rolling_percent: float) -> Sequence[Shard]:
    if scope is Scope.STUDY:
        return [study_shard(parse_uid(study, name="study"))]
    return plan_shards(rolling_percent if scope is Scope.ROLLING else 100.0)


def _planned(shards: Sequence[Shard], record: RunRecord) -> State[Any]:
    figures = {"shards": len(shards), "instances": sum(each.instances for each in shards), "bytes": sum(each.bytes for each in shards)}
    sentence = f"dry run: {figures['instances']} objects in {len(shards)} shards would be verified"
    publish_summary("verify-summary", "Verification", sentence, figures)
    record.finish("planned", figures)
    return Completed(message=sentence)


def _verify(shards: Sequence[Shard], percent: float, run: str, *, repair: bool, every_tier: bool) -> tuple[Verified, int]:
    """All shards, then what storage holds beyond the index; the sum of what was found, and how many steps failed."""
    numbers = list(range(1, len(shards) + 1))
    futures = [*verify_shard.map(numbers, list(shards), unmapped(percent), unmapped(run), repair=unmapped(repair))]
    if every_tier:
        futures += find_orphans.map(tier_names())
    found, unfinished = gathered("verify-progress", futures)
    return sum(found, Verified()), unfinished


def _result(found: Verified, *, shards: int, unfinished: int) -> Verification:
    counts = {damage.value: found.report.count(damage) for damage in Damage}
    return Verification(
        instances=found.report.checked,
        bytes_read=found.report.bytes_read,
        shards=shards,
        unfinished=unfinished,
        repaired=len(found.repaired),
        **counts,
    )
