"""The steps of the `verify` flow."""

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from prefect import task

from pacs_core.archive import verification
from pacs_core.archive.verification import KnownPaths, ShardReport
from pacs_core.index.locations import LakeLocations
from pacs_core.index.reader import Shard
from pacs_core.index.removals import LakeRemovals
from pacs_core.lifecycle.keeping import verify_package, verify_quarantined
from pacs_core.lifecycle.moving import Failure
from pacs_core.model import UID, Change, Copy, CopyState, Removed, RemovedState, StoredObject
from pacs_core.ports import ObjectStore
from pacs_core.settings import Settings, load_settings
from pacs_core.wiring import operations, tiers
from tasks.connections import Connections, connections
from tasks.operation import catch_up
from tasks.policy import RETRIES

# From placing an object to journalling it are milliseconds; where the machine is suspended in between, minutes.
_ARRIVING = 300.0
# Larger than where objects are moved: a local disk is read in a second or two, and what a shard costs beside is the same for any size.
_SHARD_INSTANCES = 2000
_SHARD_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Verified:
    """What a step has found, and what came of repairing it."""

    report: ShardReport = field(default_factory=ShardReport)
    repaired: tuple[StoredObject, ...] = ()
    unrepaired: tuple[Failure, ...] = ()

    def __add__(self, other: "Verified") -> "Verified":
        return Verified(self.report + other.report, self.repaired + other.repaired, self.unrepaired + other.unrepaired)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Reads so many of a hundred objects of the tiers; of the others it asks whether they are there."""

    stores: Mapping[str, ObjectStore]
    percent: float

    def verify(self, objects: Sequence[StoredObject]) -> ShardReport:
        chosen = {each.SOPInstanceUID for each in objects if self.takes_next()}
        report = verification.verify_shard(self.stores, [each for each in objects if each.SOPInstanceUID in chosen])
        return report + verification.check_presence(self.stores, [each for each in objects if each.SOPInstanceUID not in chosen])

    def takes_next(self) -> bool:
        return random.uniform(0, 100) < self.percent  # noqa: S311 - no secret


@task(task_run_name="plan", **RETRIES)
def plan_shards(percent: float = 100) -> Sequence[Shard]:
    """One query: everything that is held, or the share that was longest not verified, cut between studies."""
    return connections(load_settings()).reader.shards(max_instances=_SHARD_INSTANCES, max_bytes=_SHARD_BYTES, percent=percent)


@task(task_run_name="shard {number}", **RETRIES)
def verify_shard(number: int, shard: Shard, sample_percent: float, run: str, *, repair: bool) -> Verified:  # noqa: ARG001 - the run is named after it
    """Read what is held of a shard's studies, its copies and what is in quarantine, or a sample of it; remember what was intact.

    Objects that are not read need only be there.
    """
    settings = load_settings()
    sample = _Sample(tiers.stores(settings), sample_percent)
    index = connections(settings)
    held = index.locations.objects(shard.studies)
    report = _verify_objects(index, shard.studies, held, sample)
    report += _verify_copies(index.locations, shard.studies, sample)
    report += _verify_packages(settings, index.locations, shard.studies, sample)
    report += _verify_quarantined(settings, index.removals, shard.studies, sample)
    report += _compare_catalogs(settings, index, shard.studies, held)
    if not repair or not report.problems:
        return Verified(report.without_intact())
    change = Change(run=run, flow="verify", action="repaired", policy="", at=datetime.now(UTC))
    result, repaired = operations.repairer(settings, index.locations).repair(report.problems, change, index.writer)
    return Verified(report.without_intact(), repaired=tuple(repaired), unrepaired=result.failures)


@task(task_run_name="objects of tier {tier}", **RETRIES)
def find_orphans(tier: str) -> Verified:
    """The objects of a tier that the index does not know."""
    settings = load_settings()
    arrived_before = time.time() - _ARRIVING
    catch_up(settings)
    locations = connections(settings).locations
    known = KnownPaths(locations.names(tier))
    store = tiers.stores(settings)[tier]
    report = verification.find_orphans(store, tier, known, arrived_before=arrived_before)
    if report.problems:  # what has come there while the tier was listed is known by now
        known = KnownPaths(locations.names(tier))
    return Verified(replace(report, problems=tuple(each for each in report.problems if each.path not in known and store.exists(each.path))))


def study_shard(study: UID) -> Shard:
    """One study as a shard, whatever its size."""
    return Shard((study,), 0, 0)


def tier_names() -> Sequence[str]:
    """The configured tiers."""
    return list(load_settings().tiers)


def _verify_objects(index: Connections, studies: Sequence[UID], held: Sequence[StoredObject], sample: _Sample) -> ShardReport:
    """What holds the instances. An object that was moved while it was looked for is looked for again."""
    report = sample.verify(held)
    now = {each.SOPInstanceUID: each for each in index.locations.objects(studies)} if report.problems else {}
    moved = [each for each in held if now and now.get(each.SOPInstanceUID) != each]
    if moved:
        elsewhere = {each.SOPInstanceUID for each in moved}
        report = replace(report, problems=tuple(each for each in report.problems if each.SOPInstanceUID not in elsewhere))
        report += sample.verify([now[uid] for uid in elsewhere & now.keys()])
    intact = frozenset(report.intact)
    if intact:
        index.writer.mark_verified([each for each in held if each.SOPInstanceUID in intact], datetime.now(UTC))
    return report


def _verify_copies(locations: LakeLocations, studies: Sequence[UID], sample: _Sample) -> ShardReport:
    copies = [copy for copy in locations.copies(studies) if copy.state is CopyState.HELD and not copy.member]
    report = ShardReport()
    for tier in sorted({copy.tier for copy in copies}):
        here = [copy for copy in copies if copy.tier == tier]
        found = sample.verify([copy.object for copy in here])
        intact = frozenset(found.intact)
        locations.verified([copy for copy in here if copy.SOPInstanceUID in intact], datetime.now(UTC))
        if found.problems:  # a copy that was taken away meanwhile is no damage
            still = {(copy.tier, copy.path) for copy in locations.copies(studies) if copy.state is CopyState.HELD}
            found = replace(found, problems=tuple(each for each in found.problems if (each.tier, each.path) in still))
        report += found
    return report


def _verify_packages(settings: Settings, locations: LakeLocations, studies: Sequence[UID], sample: _Sample) -> ShardReport:
    """A package is read whole or not at all. It is never removed while any of its members is held."""
    packages: dict[tuple[str, str], list[Copy]] = defaultdict(list)
    for copy in locations.copies(studies):
        if copy.member and copy.state is CopyState.HELD:
            packages[copy.tier, copy.path].append(copy)
    report = ShardReport()
    for members in packages.values():
        if sample.takes_next():
            found = verify_package(sample.stores, members, settings.scratch_directory)
            intact = frozenset(found.intact)
            locations.verified([copy for copy in members if copy.SOPInstanceUID in intact], datetime.now(UTC))
            report += found
    return report


def _verify_quarantined(settings: Settings, removals: LakeRemovals, studies: Sequence[UID], sample: _Sample) -> ShardReport:
    def kept() -> Sequence[Removed]:
        return removals.all(RemovedState.QUARANTINED, studies=studies)

    report = verify_quarantined(sample.stores, tiers.landing(settings), [each for each in kept() if sample.takes_next()])
    if report.problems:  # what was destroyed or brought back meanwhile is no damage
        still = {(each.tier, each.path) for each in kept()}
        report = replace(report, problems=tuple(each for each in report.problems if (each.tier, each.path) in still))
    return report


def _compare_catalogs(settings: Settings, index: Connections, studies: Sequence[UID], held: Sequence[StoredObject]) -> ShardReport:
    """Keys and lake are written one after the other: what differs is looked at again once everything is committed."""
    report = verification.compare_catalogs(held, index.reader.stored_objects(studies))
    if report.problems:
        catch_up(settings)
        report = verification.compare_catalogs(index.locations.objects(studies), index.reader.stored_objects(studies))
    return report
