"""Rebuild: the whole index, made again from what lies on the tiers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed
from pydantic import BaseModel

from flows.reporting import RunRecord, gathered, publish_summary, publish_table
from pacs_core.lifecycle.rebuilding import Merged, ObjectShard, Scanned
from tasks.policy import archive_task_runner
from tasks.rebuilding import abandon_listing, begin_rebuild, list_tier, merge_shards, scan_shard, tiers


class Rebuilt(BaseModel):
    """What a run did, for the record."""

    objects: int = 0
    bytes: int = 0
    inserted: int = 0
    present: int = 0
    relocated: int = 0
    copies: int = 0
    problems: dict[str, int] = {}

    @classmethod
    def of(cls, scanned: Scanned, merged: Merged) -> "Rebuilt":
        """The sum."""
        problems = Counter(each.reason.value for each in (*scanned.problems, *merged.problems))
        counts = {"inserted": merged.inserted, "present": merged.present, "relocated": merged.relocated, "copies": merged.copies}
        return cls(objects=scanned.objects, bytes=scanned.bytes, problems=dict(problems), **counts)

    @property
    def sentence(self) -> str:
        """The outcome as the state message says it."""
        told = f"{self.inserted} instances were indexed, {self.present} were already"
        told += f", {self.relocated} were relocated" if self.relocated else ""
        told += f", {self.copies} further copies are known" if self.copies else ""
        if not self.problems:
            return told
        kinds = ", ".join(f"{count} {reason}" for reason, count in self.problems.items())
        return f"{sum(self.problems.values())} of {self.objects} objects are not indexed: {kinds}; {told}"


@flow(name="rebuild", task_runner=archive_task_runner(), validate_parameters=True)
def rebuild(into_existing: bool = False, dry_run: bool = False) -> State[Any]:
    """Make the index from storage alone: read every object of every tier, and commit what it says in the order of reception.

    Ends Failed if an object could not be indexed; the rest is. A run that was killed is simply run again: what was read is not read
    again. While it goes on the archive may take instances in.

    Args:
        into_existing: Add to an index that is not empty what it lacks, and correct where instances are; otherwise that is refused.
        dry_run: Only list: say how much would be read.
    """
    with RunRecord("rebuild", {"into_existing": into_existing, "dry_run": dry_run}) as record:
        if not dry_run:
            begin_rebuild(into_existing=into_existing)
        shards = [shard for listed in list_tier.map(tiers()) for shard in listed.result()]
        if dry_run:
            return _planned(shards, record)
        scanned, unfinished = _scan(shards)
        if unfinished:  # what the others hold stays untold: their order would be wrong
            record.finish("failed", {"shards": len(shards), "unfinished": unfinished})
            return Failed(message=f"{unfinished} of {len(shards)} shards could not be read; nothing was indexed, run it again")
        merged = merge_shards.submit(shards, record.run_id, into_existing=into_existing).result()
        result = Rebuilt.of(scanned, merged)
        problems = [asdict(problem) for problem in (*scanned.problems, *merged.problems)]
        publish_table("rebuild-problems", f"{len(problems)} objects are not indexed", problems)
        publish_summary("rebuild-summary", "Rebuild", result.sentence, result.model_dump())
        record.finish("failed" if result.problems else "completed", result.model_dump())
    return Failed(message=result.sentence) if result.problems else Completed(message=result.sentence)


def _planned(shards: Sequence[ObjectShard], record: RunRecord) -> State[Any]:
    abandon_listing()
    objects, size = Counter[str](), Counter[str]()
    for shard in shards:
        objects[shard.tier] += shard.objects
        size[shard.tier] += shard.bytes
    figures = {"objects": objects.total(), "bytes": size.total(), "shards": len(shards)}
    sentence = f"dry run: {figures['objects']} objects in {len(shards)} shards would be read"
    publish_table("rebuild-plan", sentence, [{"tier": tier, "objects": objects[tier], "bytes": size[tier]} for tier in objects])
    record.finish("planned", figures)
    return Completed(message=sentence)


def _scan(shards: Sequence[ObjectShard]) -> tuple[Scanned, int]:
    """All shards; the sum of their reports, and how many could not be read."""
    scanned, unfinished = gathered("rebuild-progress", scan_shard.map(list(range(1, len(shards) + 1)), list(shards)))
    return sum(scanned, Scanned()), unfinished
