"""Retention: studies leave the index, stay in quarantine for a while, and are then destroyed, or brought back.

1. The keys go, unless the study is on hold, in the transaction that writes down what is removed.
2. The lake follows.
3. The objects go into quarantine: those of the landing tier, whose names arrivals may want, out of the way; others keep their names.
4. When their time is over they are destroyed, unless something is held under their name again.

Each step is repeated by the next run where one was killed. Until the fourth every byte is still there.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import structlog

from pacs_core.archive.verification import verify_shard
from pacs_core.errors import (
    ChecksumMismatch,
    DuplicateInstance,
    IndexUnavailable,
    ObjectMissing,
    PacsError,
)
from pacs_core.lifecycle.keeping import verify_package
from pacs_core.lifecycle.moving import Failure, Moved, as_local_file, record_of
from pacs_core.lifecycle.plan import Step
from pacs_core.model import UID, Change, Copy, CopyState, InstanceRecord, Removed, RemovedState, StoredObject
from pacs_core.ports import IndexWriter, LandingStore, Locations, Locked, ObjectStore, Removals
from pacs_core.storage.configured import tier_named

log = structlog.get_logger(__name__)

# Of how many instances a step would be if it were planned now (rules.instances_named).
Named = Callable[[Step], int]


class Retention:
    """Removes studies, destroys what was removed. Thread-safe.

    Args:
        stores: the tiers by name.
        locations: where instances are; its locks say who works on a study.
        removals: takes instances out of the index.
        landing: where instances arrive.
        scratch: a directory for what is brought back from a remote tier.
        settled: returns once everything is in the index that was acknowledged before; UnavailableError if that takes too long.
    """

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        locations: Locations,
        removals: Removals,
        landing: LandingStore,
        scratch: Path,
        settled: Callable[[], None],
    ) -> None:
        self._stores = stores
        self._locations = locations
        self._removals = removals
        self._landing = landing
        self._scratch = scratch
        self._settled = settled

    def remove(self, steps: Sequence[Step], change: Change, destroy_after: datetime, *, named: Named, require_copy: bool) -> Moved:
        """Take steps: their studies' objects on the source tier leave the index. One study's failure stops no other.

        A study that has changed since the plan was made, so that its rule no longer names it, stays. With `require_copy`, only
        instances of which another copy is held that has just been read and found good.
        """
        wanted = [step.StudyInstanceUID for step in steps]
        result = Moved()
        with self._locations.locked(wanted) as mine:
            for step in steps:
                if step.StudyInstanceUID in mine:
                    result += self._remove_study(step, change, destroy_after, named, mine, require_copy=require_copy)
        return result + Moved(busy=tuple(study for study in wanted if study not in mine))

    def finish(self, change: Change) -> None:
        """Bring to an end what killed runs have begun, as far as nobody works on it."""
        begun = self._removals.all(RemovedState.LEAVING)
        with self._locations.locked({each.StudyInstanceUID for each in begun}) as mine:
            self._quarantine([each for each in begun if each.StudyInstanceUID in mine], change, mine)

    def destroy(self, removed: Sequence[Removed], change: Change) -> Moved:
        """Destroy objects whose time is over. What is held again under its name stays, and counts as destroyed.

        IndexUnavailable, with what is left untouched, once it can no longer be told whether anybody else works on a study.
        """
        failures: list[Failure] = []
        with (
            self._locations.locked({each.StudyInstanceUID for each in removed}) as mine,
            self._removals.discharging([each for each in removed if each.StudyInstanceUID in mine], RemovedState.DESTROYED, change) as due,
        ):
            in_use, needed = self._removals.in_use(due.removed), self._removals.removed_as_well(due.removed)
            for each in due.removed:
                mine.check()
                try:
                    if each.sha256 not in needed:
                        self._destroy(each, is_in_use=(each.tier, each.path) in in_use)
                except PacsError as exc:
                    failures.append(_failure(each, exc))
                else:
                    due.done.append(each)
        return _outcome(due.done, failures)

    def undo(self, removed: Sequence[Removed], change: Change, writer: IndexWriter) -> Moved:
        """Bring back what is in quarantine: its name, then its place in the index. What is held again meanwhile is not touched."""
        studies = {each.StudyInstanceUID for each in removed}
        with self._locations.locked(studies) as mine:
            ours = [each for each in removed if each.StudyInstanceUID in mine]
            with self._removals.discharging(ours, RemovedState.RESTORED, change) as discharge:
                revived, failures = self._revived(discharge.removed)
                lost = {record.SOPInstanceUID for record in writer.commit([record for _, record in revived]).conflicting}
                for each, _ in revived:
                    if each.SOPInstanceUID not in lost:
                        discharge.done.append(each)
                        continue
                    failures.append(_failure(each, _held_again(each)))
                    if each.tier == self._landing.tier:
                        self._landing.retire(each.path, each.sha256)
            self._forget_retired(discharge.done)
        return _outcome(discharge.done, failures) + Moved(busy=tuple(sorted(studies - mine.studies)))

    def _forget_retired(self, back: Sequence[Removed]) -> None:
        """What was brought back has its name again; the other one goes, unless an earlier removal needs it."""
        needed = self._removals.removed_as_well(back)
        for each in back:
            if each.tier == self._landing.tier and each.sha256 not in needed:
                self._landing.destroy(each.sha256)

    def _revived(self, removed: Sequence[Removed]) -> tuple[list[tuple[Removed, InstanceRecord]], list[Failure]]:
        """The last removals of instances, whose objects have their names again, and why the others do not count."""
        revived: dict[UID, tuple[Removed, InstanceRecord]] = {}
        failures: list[Failure] = []
        for each in sorted(removed, key=lambda each: each.removed_at, reverse=True):
            try:
                if each.SOPInstanceUID in revived:
                    raise _held_again(each)
                revived[each.SOPInstanceUID] = each, self._revive(each)
            except PacsError as exc:
                failures.append(_failure(each, exc))
        return list(revived.values()), failures

    def _revive(self, each: Removed) -> InstanceRecord:
        """The record of an object that has its name again."""
        if each.tier == self._landing.tier and not self._landing.revive(each.path, each.sha256):
            raise _held_again(each)
        with as_local_file(self._stores, each.tier, each.path, each.sha256, self._scratch) as file:
            record = record_of(file, tier=each.tier, path=each.path)
        if record.sha256 != each.sha256:
            raise ChecksumMismatch(f"{each.path} on tier {each.tier} does not hash to what was stored")
        return record

    def _remove_study(
        self, step: Step, change: Change, destroy_after: datetime, named: Named, mine: Locked, *, require_copy: bool
    ) -> Moved:
        try:
            objects = self._still_named(step, named)
            failures: list[Failure] = []
            if require_copy:
                objects, failures = self._with_good_copy(step.StudyInstanceUID, objects)
            taken = self._removals.take_out(objects, change, destroy_after) if objects else frozenset[UID]()
            self._quarantine(self._removals.all(RemovedState.LEAVING, studies=[step.StudyInstanceUID]), change, mine)
        except PacsError as exc:
            return Moved(failures=(Failure(step.StudyInstanceUID, "", str(exc), exc.retryable),))
        return _outcome([each for each in objects if each.SOPInstanceUID in taken], failures)

    def _still_named(self, step: Step, named: Named) -> Sequence[StoredObject]:
        """The objects that the step is about, none if its rule no longer names the study. What arrives from now on is not among them."""
        objects = [each for each in self._locations.objects([step.StudyInstanceUID]) if each.tier == step.source]
        if not objects or not (instances := named(step)):
            return ()
        if instances < len(objects):  # what a rule would say of the others is not known yet
            raise IndexUnavailable("the lake does not have all instances of the study yet")
        return objects

    def _with_good_copy(self, study: UID, objects: Sequence[StoredObject]) -> tuple[list[StoredObject], list[Failure]]:
        """Those of which a copy was just read and found good, and why the others may not go."""
        by_instance = {(each.SOPInstanceUID, each.sha256): each for each in objects}
        copies = [
            copy
            for copy in self._locations.copies([study])
            if copy.state is CopyState.HELD
            and (each := by_instance.get((copy.SOPInstanceUID, copy.sha256))) is not None
            and (copy.tier, copy.path) != (each.tier, each.path)  # itself is no second one
        ]
        alone = [copy.object for copy in copies if not copy.member]
        intact = set(verify_shard(self._stores, alone).intact) | self._intact_in_packages(copies)
        good = [each for each in objects if each.SOPInstanceUID in intact]
        lacking = [each for each in objects if each.SOPInstanceUID not in intact]
        return good, [Failure(study, each.SOPInstanceUID, "there is no verified copy", retryable=False) for each in lacking]

    def _intact_in_packages(self, copies: Sequence[Copy]) -> set[UID]:
        intact: set[UID] = set()
        for tier, path in {(copy.tier, copy.path) for copy in copies if copy.member}:
            report = verify_package(self._stores, [copy for copy in copies if (copy.tier, copy.path) == (tier, path)], self._scratch)
            for problem in report.problems:
                log.error("package_damaged", tier=tier, path=path, reason=problem.detail)
            intact.update(report.intact)
        return intact

    def _quarantine(self, leaving: Sequence[Removed], change: Change, mine: Locked) -> None:
        """The lake forgets them, then their objects go out of the way."""
        if not leaving:
            return
        self._removals.forget_rows(leaving, change)
        here = [each for each in leaving if each.tier == self._landing.tier]
        for each in here:
            mine.check()
            with suppress(ObjectMissing):  # destroyed by hand; there is nothing left to keep
                self._landing.retire(each.path, each.sha256)
        # Another arrival may have been found equal to an object before that was out of sight; its record then names it. What is indexed
        # of those comes back at once: to wait for the others may take long, and fail.
        self._revive_arrived(here)
        self._settled()
        self._revive_arrived(here)
        self._removals.quarantined(leaving)

    def _revive_arrived(self, retired: Sequence[Removed]) -> None:
        in_use = self._removals.in_use(retired)
        for each in (each for each in retired if (each.tier, each.path) in in_use):
            with suppress(ObjectMissing):  # as above; the name may be another arrival's
                if self._landing.revive(each.path, each.sha256):
                    log.info("removed_object_arrived_again", SOPInstanceUID=each.SOPInstanceUID, path=each.path)

    def _destroy(self, each: Removed, *, is_in_use: bool) -> None:
        if each.tier == self._landing.tier:
            if is_in_use:  # by a key whose object may be gone: it was found equal to this one just before
                with suppress(ObjectMissing):
                    self._landing.revive(each.path, each.sha256)
            self._landing.destroy(each.sha256)
        elif not is_in_use:
            tier_named(self._stores, each.tier).delete(each.path)


def _held_again(each: Removed) -> DuplicateInstance:
    return DuplicateInstance(f"the instance is held again: another object of it has arrived since it was removed by the rule {each.policy}")


def _outcome(done: Sequence[Removed | StoredObject], failures: Sequence[Failure]) -> Moved:
    return Moved(len(done), sum(each.size for each in done), len({each.StudyInstanceUID for each in done}), (), tuple(failures))


def _failure(each: Removed, problem: PacsError) -> Failure:
    return Failure(each.StudyInstanceUID, each.SOPInstanceUID, str(problem), problem.retryable)
