"""The steps of the `verify` flow."""

import random
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from prefect import task

from pacs_core import wiring
from pacs_core.archive import verification
from pacs_core.archive.indexing import wait_until_committed
from pacs_core.archive.verification import KnownPaths, ShardReport
from pacs_core.index.locations import LakeLocations
from pacs_core.index.reader import Shard
from pacs_core.lifecycle.moving import Failure
from pacs_core.model import UID, Copy, CopyState, StoredObject
from pacs_core.settings import Settings, load_settings
from tasks.operation import SHARD_BYTES, SHARD_INSTANCES, catch_up
from tasks.policy import RETRIES

# From placing an object to journalling it are milliseconds; where the machine is suspended in between, minutes.
_ARRIVING = 300.0
_JOURNAL_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Verified:
    """What a step has found, and what came of repairing it."""

    report: ShardReport = field(default_factory=ShardReport)
    repaired: tuple[StoredObject, ...] = ()
    unrepaired: tuple[Failure, ...] = ()

    def __add__(self, other: "Verified") -> "Verified":
        return Verified(self.report + other.report, self.repaired + other.repaired, self.unrepaired + other.unrepaired)


@task(task_run_name="plan", **RETRIES)
def plan_shards(percent: float = 100) -> Sequence[Shard]:
    """One query: everything that is held, or the share that was longest not verified, cut between studies."""
    with closing(wiring.index_reader(load_settings())) as reader:
        return reader.shards(max_instances=SHARD_INSTANCES, max_bytes=SHARD_BYTES, percent=percent)


@task(task_run_name="shard {number}", **RETRIES)
def verify_shard(number: int, shard: Shard, sample_percent: float, *, repair: bool) -> Verified:  # noqa: ARG001 - the run is named after it
    """Read a shard's objects and their copies, or a sample of them (the others need only be there); remember which were intact."""
    settings = load_settings()
    with closing(wiring.locations(settings)) as locations:
        report = _verify_objects(settings, locations, shard.studies, sample_percent)
        report += _verify_copies(settings, locations, shard.studies, sample_percent)
        report += _compare_catalogs(settings, locations, shard.studies)
        if not repair or not report.problems:
            return Verified(report.without_intact())
        result, repaired = wiring.repairer(settings, locations).repair(report.problems)
    return Verified(report.without_intact(), repaired=tuple(repaired), unrepaired=result.failures)


@task(task_run_name="objects of tier {tier}", **RETRIES)
def find_orphans(tier: str) -> Verified:
    """The objects of a tier that the index does not know."""
    settings = load_settings()
    arrived_before = time.time() - _ARRIVING
    with closing(wiring.journal(settings)) as journal:
        wait_until_committed(journal, _JOURNAL_PATIENCE)
    with closing(wiring.locations(settings)) as locations:
        known = KnownPaths(locations.names(tier))
        store = wiring.stores(settings)[tier]
        report = verification.find_orphans(store, tier, known, arrived_before=arrived_before)
        if report.problems:  # what has come there while the tier was listed is known by now
            known = KnownPaths(locations.names(tier))
    return Verified(replace(report, problems=tuple(each for each in report.problems if each.path not in known and store.exists(each.path))))


def study_shard(study: UID) -> Shard:
    """One study as a shard, whatever its size."""
    return Shard((study,), 0, 0)


def tiers() -> Sequence[str]:
    """The configured tiers."""
    return list(load_settings().tiers)


def _verify_objects(settings: Settings, locations: LakeLocations, studies: Sequence[UID], percent: float) -> ShardReport:
    """What holds the instances. An object that was moved while it was looked for is looked for again."""
    held = locations.objects(studies)
    report = _sampled(settings, held, percent)
    now = {each.SOPInstanceUID: each for each in locations.objects(studies)} if report.problems else {}
    moved = [each for each in held if now and now.get(each.SOPInstanceUID) != each]
    if moved:
        elsewhere = {each.SOPInstanceUID for each in moved}
        report = replace(report, problems=tuple(each for each in report.problems if each.SOPInstanceUID not in elsewhere))
        report += _sampled(settings, [now[uid] for uid in elsewhere & now.keys()], percent)
    intact = frozenset(report.intact)
    _remember(settings, [each for each in held if each.SOPInstanceUID in intact])
    return report


def _verify_copies(settings: Settings, locations: LakeLocations, studies: Sequence[UID], percent: float) -> ShardReport:
    copies = [copy for copy in locations.copies(studies) if copy.state is CopyState.HELD and not copy.member]
    report = ShardReport()
    for tier in sorted({copy.tier for copy in copies}):
        here = [copy for copy in copies if copy.tier == tier]
        found = _sampled(settings, [_as_object(copy) for copy in here], percent)
        intact = frozenset(found.intact)
        locations.verified([copy for copy in here if copy.SOPInstanceUID in intact], datetime.now(UTC))
        if found.problems:  # a copy that was taken away meanwhile is no damage
            still = {(copy.tier, copy.path) for copy in locations.copies(studies) if copy.state is CopyState.HELD}
            found = replace(found, problems=tuple(each for each in found.problems if (each.tier, each.path) in still))
        report += found
    return report


def _compare_catalogs(settings: Settings, locations: LakeLocations, studies: Sequence[UID]) -> ShardReport:
    """Keys and lake are written one after the other: what differs is looked at again once everything is committed."""
    with closing(wiring.index_reader(settings)) as reader:
        report = verification.compare_catalogs(locations.objects(studies), reader.stored_objects(studies))
        if report.problems:
            catch_up(settings)
            report = verification.compare_catalogs(locations.objects(studies), reader.stored_objects(studies))
    return report


def _sampled(settings: Settings, objects: Sequence[StoredObject], percent: float) -> ShardReport:
    stores = wiring.stores(settings)
    chosen = {each.SOPInstanceUID for each in objects if random.uniform(0, 100) < percent}  # noqa: S311 - no secret
    report = verification.verify_shard(stores, [each for each in objects if each.SOPInstanceUID in chosen])
    return report + verification.check_presence(stores, [each for each in objects if each.SOPInstanceUID not in chosen])


def _as_object(copy: Copy) -> StoredObject:
    return StoredObject(
        SOPInstanceUID=copy.SOPInstanceUID,
        SOPClassUID=UID(""),
        TransferSyntaxUID=UID(""),
        SeriesInstanceUID=copy.SeriesInstanceUID,
        StudyInstanceUID=copy.StudyInstanceUID,
        tier=copy.tier,
        path=copy.path,
        size=copy.size,
        sha256=copy.sha256,
    )


def _remember(settings: Settings, intact: Sequence[StoredObject]) -> None:
    if intact:
        with closing(wiring.index_writer(settings)) as writer:
            writer.mark_verified(intact, datetime.now(UTC))
