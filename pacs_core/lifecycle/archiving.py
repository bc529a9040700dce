"""Studies are copied to an archive destination, as objects or as one package each, verified there, and brought back.

A package is made beside, put, read back whole, and only then entered as copies of what it holds. Bringing back takes what the index
no longer holds: from objects or packages, to where instances arrive, and into the index by its own bytes.
"""

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from pacs_core.errors import PacsError
from pacs_core.lifecycle.moving import Failure, Moved, Mover, as_local_file, bring_back, record_of
from pacs_core.lifecycle.packaging import Form, check_package, extract, form_of, local_package, scratch_folder, write_package
from pacs_core.lifecycle.plan import Step
from pacs_core.model import UID, Change, Copy, CopyState, InstanceRecord, StoredObject
from pacs_core.ports import IndexWriter, LandingStore, Locations, ObjectStore
from pacs_core.storage.configured import tier_named


class Archiver:
    """Archives studies and brings them back. Thread-safe.

    Args:
        stores: tiers and destinations by name.
        mover: copies objects.
        locations: where instances are.
        landing: where instances arrive.
        scratch: a directory with room for a package.
    """

    def __init__(self, stores: Mapping[str, ObjectStore], mover: Mover, locations: Locations, landing: LandingStore, scratch: Path) -> None:
        self._stores = stores
        self._mover = mover
        self._locations = locations
        self._landing = landing
        self._scratch = scratch

    def archive(self, steps: Sequence[Step], change: Change, form: Form) -> Moved:
        """Take steps of one source and target: a verified copy of every object that has none at the target. One failure stops no other.

        A study that has grown gets a further package of what is new.
        """
        if form is Form.OBJECTS:
            return self._mover.copy(steps, change)
        wanted = [step.StudyInstanceUID for step in steps]
        result = Moved()
        with self._locations.locked(wanted) as mine:
            studies = [study for study in wanted if study in mine]
            self._mover.settle(studies, change)
            for study in studies:
                try:
                    result += self._package(study, steps[0].target, change, form)
                except PacsError as exc:
                    result += Moved(failures=(Failure(study, "", str(exc), exc.retryable),))
        return result + Moved(busy=tuple(study for study in wanted if study not in mine))

    def bring_back(self, study: UID, change: Change, writer: IndexWriter) -> Moved:
        """Bring back from copies what is no longer held of a study."""
        with self._locations.locked([study]) as mine:
            if study not in mine:
                return Moved(busy=(study,))
            records, failures = self._recovered(self._lost(study))
            conflicting = {record.SOPInstanceUID for record in writer.commit(records).conflicting}
            back = [record.object for record in records if record.SOPInstanceUID not in conflicting]
            self._locations.note(back, change)
        return Moved(len(back), sum(each.size for each in back), 1 if back else 0, (), tuple(failures))

    def _package(self, study: UID, target: str, change: Change, form: Form) -> Moved:
        there = {(copy.SOPInstanceUID, copy.sha256) for copy in self._locations.copies([study]) if copy.tier == target}
        objects = [each for each in self._locations.objects([study]) if (each.SOPInstanceUID, each.sha256) not in there]
        if not objects:
            return Moved()
        # A name of its own for each attempt: a run may come back to a study that has grown.
        path = f"packages/{study}/{change.run}-{secrets.token_hex(4)}.{form}"
        self._locations.announce(objects, target, change.run, package=path)
        with scratch_folder(self._scratch) as folder:
            package = folder / f"package.{form}"
            write_package(package, form, objects, self._opened, study=study, run=change.run, at=change.at)
            with package.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            tier_named(self._stores, target).put(path, package, sha256=sha256)
            read_back = folder / f"read-back.{form}"
            tier_named(self._stores, target).fetch(path, read_back, sha256=sha256)
            check_package(read_back, form, objects)
        done = self._locations.copied(objects, target, change, package=path)
        finished = [each for each in objects if each.SOPInstanceUID in done]
        return Moved(len(finished), sum(each.size for each in finished), 1 if finished else 0)

    def _lost(self, study: UID) -> Mapping[UID, Sequence[Copy]]:
        """The copies of instances that are not held, or that were being brought back when a run was killed: of their last version."""
        held = {each.SOPInstanceUID: each for each in self._locations.objects([study])}
        cut_short = {
            (uid, held[uid].sha256) for uid in self._locations.untold([study]) & held.keys() if held[uid].tier == self._landing.tier
        }
        versions: dict[UID, list[Copy]] = defaultdict(list)
        for copy in self._locations.copies([study]):
            if copy.state is CopyState.HELD and (copy.SOPInstanceUID not in held or (copy.SOPInstanceUID, copy.sha256) in cut_short):
                versions[copy.SOPInstanceUID].append(copy)
        last = {uid: max(copies, key=lambda copy: copy.since).sha256 for uid, copies in versions.items()}
        return {uid: [copy for copy in copies if copy.sha256 == last[uid]] for uid, copies in versions.items()}

    def _recovered(self, lost: Mapping[UID, Sequence[Copy]]) -> tuple[list[InstanceRecord], list[Failure]]:
        """Objects placed where instances arrive, each from the first of its copies that is good, and their records."""
        records: dict[UID, InstanceRecord] = {}
        failures: dict[UID, Failure] = {}
        for attempt in zip_longest(*lost.values()):
            copies = [copy for copy in attempt if copy is not None and copy.SOPInstanceUID not in records]
            for copy, outcome in self._placed(copies):
                if isinstance(outcome, PacsError):
                    failures[copy.SOPInstanceUID] = _failure(copy, outcome)
                else:
                    records[copy.SOPInstanceUID] = outcome
        return list(records.values()), [failure for uid, failure in failures.items() if uid not in records]

    def _placed(self, copies: Sequence[Copy]) -> Iterator[tuple[Copy, InstanceRecord | PacsError]]:
        """What comes of each copy: its object's record, now that it is placed, or why it is not. A package is read once."""
        for copy in copies:
            if not copy.member:
                yield copy, self._placed_object(copy)
        for tier, path in sorted({(copy.tier, copy.path) for copy in copies if copy.member}):
            yield from self._placed_members(tier, path, [copy for copy in copies if (copy.tier, copy.path) == (tier, path)])

    def _placed_object(self, copy: Copy) -> InstanceRecord | PacsError:
        try:
            with as_local_file(self._stores, copy.tier, copy.path, copy.sha256, self._scratch) as file:
                return self._place(copy, copy.path, file)
        except PacsError as exc:
            return exc

    def _placed_members(self, tier: str, path: str, copies: Sequence[Copy]) -> Iterator[tuple[Copy, InstanceRecord | PacsError]]:
        left = {copy.member: copy for copy in copies}
        wanted = {member: copy.sha256 for member, copy in left.items()}
        try:
            with local_package(tier_named(self._stores, tier), path, self._scratch) as package, scratch_folder(self._scratch) as folder:
                for member, extracted in extract(package, form_of(path), wanted, folder):
                    copy = left.pop(member)
                    yield copy, self._place(copy, member, extracted)
        except PacsError as exc:
            yield from ((copy, exc) for copy in left.values())

    def _place(self, copy: Copy, path: str, file: Path) -> InstanceRecord | PacsError:
        try:
            record = record_of(file, tier=self._landing.tier, path=path)
            bring_back(self._landing, replace(record.object, sha256=copy.sha256), file)
        except PacsError as exc:
            return exc
        return record

    @contextmanager
    def _opened(self, each: StoredObject) -> Iterator[Path]:
        with as_local_file(self._stores, each.tier, each.path, each.sha256, self._scratch) as file:
            yield file


def _failure(copy: Copy, problem: PacsError) -> Failure:
    return Failure(copy.StudyInstanceUID, copy.SOPInstanceUID, str(problem), problem.retryable)
