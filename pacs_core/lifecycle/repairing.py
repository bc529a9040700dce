"""Damaged objects are written anew from another good copy, rows of the lake from the objects that the keys name.

What was damaged on the landing tier is kept aside.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from pacs_core.archive.verification import Damage, Problem, verify_shard
from pacs_core.errors import ChecksumMismatch, NotFound, ObjectMissing, PacsError
from pacs_core.lifecycle.moving import Failure, Moved, as_local_file, bring_back, record_of
from pacs_core.model import UID, Change, CopyState, StoredObject
from pacs_core.ports import IndexWriter, LandingStore, Locations, ObjectStore

log = structlog.get_logger(__name__)


class Repairer:
    """Repairs objects that a verification has found damaged or missing. Thread-safe; repeatable.

    Args:
        stores: the tiers by name.
        locations: where instances and their copies are.
        landing: where instances arrive.
        scratch: a directory for copies from remote tiers.
    """

    def __init__(self, stores: Mapping[str, ObjectStore], locations: Locations, landing: LandingStore, scratch: Path) -> None:
        self._stores = stores
        self._locations = locations
        self._landing = landing
        self._scratch = scratch

    def repair(self, problems: Sequence[Problem], change: Change, writer: IndexWriter) -> tuple[Moved, Sequence[StoredObject]]:
        """Mend what can be; what came of it, and the objects that are good now. One failure stops no other.

        An object that is in an archive class is left as it is: whether it is damaged cannot be told.
        """
        done: list[StoredObject] = []
        failures: list[Failure] = []
        studies = {UID(each.StudyInstanceUID) for each in problems if each.SOPInstanceUID}
        with self._locations.locked(studies) as mine:
            for problem in problems:
                if problem.StudyInstanceUID not in mine:
                    continue
                try:
                    if problem.damage is Damage.INCONSISTENT:
                        done += self._tell_lake(problem, change, writer)
                    else:
                        done += self._repair(problem)
                except PacsError as exc:
                    failures.append(Failure(problem.StudyInstanceUID, problem.SOPInstanceUID, str(exc), exc.retryable))
        repaired = Moved(len(done), sum(each.size for each in done), len({each.StudyInstanceUID for each in done}), (), tuple(failures))
        return repaired + Moved(busy=tuple(sorted(studies - mine.studies))), done

    def _tell_lake(self, problem: Problem, change: Change, writer: IndexWriter) -> Sequence[StoredObject]:
        """Let the lake say what the keys say, which decide. The object itself, of which its row is made."""
        study = UID(problem.StudyInstanceUID)
        held = next((each for each in self._locations.objects([study]) if each.SOPInstanceUID == problem.SOPInstanceUID), None)
        if held is None:
            raise NotFound("the lake tells of it and the keys do not; a removal that was killed is finished by the flow cleanup")
        self._locations.catch_up([study], change)
        with as_local_file(self._stores, held.tier, held.path, held.sha256, self._scratch) as file:
            record = record_of(file, tier=held.tier, path=held.path)
        if record.sha256 != held.sha256:
            raise ChecksumMismatch(f"{held.path} on tier {held.tier} does not hash to what was stored")
        writer.commit([record])
        return (held,)

    def _repair(self, problem: Problem) -> Sequence[StoredObject]:
        """The object, if it is good now; nothing if it is no longer where the instance or a copy of it is."""
        places = self._places(UID(problem.StudyInstanceUID), problem.SOPInstanceUID)
        damaged = next((each for each in places if (each.tier, each.path) == (problem.tier, problem.path)), None)
        if damaged is None or not self._is_damaged(damaged):
            return ()
        good = next((each for each in places if each is not damaged and each.sha256 == damaged.sha256 and self._is_good(each)), None)
        if good is None:
            raise ObjectMissing("there is no other good copy")
        with as_local_file(self._stores, good.tier, good.path, good.sha256, self._scratch) as source:
            self._replace(damaged, source)
        log.warning("object_repaired", SOPInstanceUID=damaged.SOPInstanceUID, tier=damaged.tier, path=damaged.path, source_tier=good.tier)
        return (damaged,)

    def _places(self, study: UID, instance: str) -> Sequence[StoredObject]:
        """Where the instance is, then its further copies."""
        held = [each for each in self._locations.objects([study]) if each.SOPInstanceUID == instance]
        copies = [
            copy.object
            for copy in self._locations.copies([study])
            if copy.SOPInstanceUID == instance and copy.state is CopyState.HELD and not copy.member
        ]
        return [*held, *copies]

    def _is_good(self, each: StoredObject) -> bool:
        try:
            return bool(verify_shard(self._stores, [each]).intact)
        except PacsError:
            return False

    def _is_damaged(self, each: StoredObject) -> bool:
        """Also if its tier does not give it out; not if that has to be asked for it first."""
        try:
            return bool(verify_shard(self._stores, [each]).problems)
        except PacsError:
            return True

    def _replace(self, damaged: StoredObject, source: Path) -> None:
        if damaged.tier != self._landing.tier:
            self._stores[damaged.tier].put(damaged.path, source, sha256=damaged.sha256)
            return
        with suppress(ObjectMissing):
            where = self._landing.set_aside(damaged.path, reason="damaged; written anew from another copy")
            log.warning("damaged_object_set_aside", SOPInstanceUID=damaged.SOPInstanceUID, path=damaged.path, quarantined=where)
        bring_back(self._landing, damaged, source)
