"""Studies are copied to an archive destination, as objects or as one package each, verified there, and brought back.

A package is made beside, put, read back whole, and only then entered as copies of what it holds. Bringing back takes what the index
no longer holds: from objects or packages, to where instances arrive, and into the index by its own bytes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pacs_core.archive.placing import record_of_file
from pacs_core.errors import ChecksumMismatch, PacsError, RequestError, StorageUnavailable
from pacs_core.lifecycle.moving import Failure, Moved, Mover, as_local_file, bring_back
from pacs_core.lifecycle.packaging import Form, check_package, extract, form_of, local_package, scratch_folder, write_package
from pacs_core.lifecycle.plan import Step
from pacs_core.model import UID, Change, Copy, CopyState, InstanceRecord, StoredObject
from pacs_core.ports import IndexWriter, LandingStore, Locations, ObjectStore


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
            held = {each.SOPInstanceUID for each in self._locations.objects([study])}
            lost = {
                copy.SOPInstanceUID: copy
                for copy in self._locations.copies([study])
                if copy.state is CopyState.HELD and copy.SOPInstanceUID not in held
            }
            records, failures = self._recovered(list(lost.values()))
            conflicting = {record.SOPInstanceUID for record in writer.commit(records).conflicting}
            back = [record.object for record in records if record.SOPInstanceUID not in conflicting]
            self._locations.note(back, change)
        return Moved(len(back), sum(each.size for each in back), 1 if back else 0, (), tuple(failures))

    def _package(self, study: UID, target: str, change: Change, form: Form) -> Moved:
        there = {(copy.SOPInstanceUID, copy.sha256) for copy in self._locations.copies([study]) if copy.tier == target}
        objects = [each for each in self._locations.objects([study]) if (each.SOPInstanceUID, each.sha256) not in there]
        if not objects:
            return Moved()
        path = f"packages/{study}/{change.run}.{form}"
        self._locations.announce(objects, target, change.run, package=path)
        with scratch_folder(self._scratch) as folder:
            package = folder / f"package.{form}"
            write_package(package, form, objects, self._opened, study=study, run=change.run, at=change.at)
            with package.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self._store(target).put(path, package, sha256=sha256)
            read_back = folder / f"read-back.{form}"
            self._store(target).fetch(path, read_back, sha256=sha256)
            check_package(read_back, form, objects)
        done = self._locations.copied(objects, target, change, package=path)
        finished = [each for each in objects if each.SOPInstanceUID in done]
        return Moved(len(finished), sum(each.size for each in finished), 1 if finished else 0)

    def _recovered(self, copies: Sequence[Copy]) -> tuple[list[InstanceRecord], list[Failure]]:
        """Objects placed where instances arrive, and their records."""
        records: list[InstanceRecord] = []
        failures: list[Failure] = []
        for tier, package in sorted({(copy.tier, copy.path if copy.member else "") for copy in copies}):
            here = [copy for copy in copies if copy.tier == tier and (copy.path if copy.member else "") == package]
            try:
                files = self._of_package(tier, package, here) if package else self._of_objects(here)
                for copy, file in files:
                    records.append(self._placed(copy, file))
            except PacsError as exc:
                done = {record.SOPInstanceUID for record in records}
                failures += [_failure(copy, exc) for copy in here if copy.SOPInstanceUID not in done]
        return records, failures

    def _of_objects(self, copies: Sequence[Copy]) -> Iterator[tuple[Copy, Path]]:
        for copy in copies:
            with as_local_file(self._stores, copy.tier, copy.path, copy.sha256, self._scratch) as file:
                yield copy, file

    def _of_package(self, tier: str, path: str, copies: Sequence[Copy]) -> Iterator[tuple[Copy, Path]]:
        by_member = {copy.member: copy for copy in copies}
        wanted = {member: copy.sha256 for member, copy in by_member.items()}
        with local_package(self._store(tier), path, self._scratch) as package, scratch_folder(self._scratch) as folder:
            for member, extracted in extract(package, form_of(path), wanted, folder):
                yield by_member[member], extracted

    def _placed(self, copy: Copy, file: Path) -> InstanceRecord:
        path = copy.member or copy.path
        try:
            record = record_of_file(file, tier=self._landing.tier, path=path)
        except OSError as exc:
            raise StorageUnavailable(f"the copy of {path} cannot be read: {exc.strerror}") from exc
        except RequestError as exc:
            raise ChecksumMismatch(f"the copy of {path} is no object of this archive") from exc
        bring_back(self._landing, record.object, file)
        return record

    @contextmanager
    def _opened(self, each: StoredObject) -> Iterator[Path]:
        with as_local_file(self._stores, each.tier, each.path, each.sha256, self._scratch) as file:
            yield file

    def _store(self, tier: str) -> ObjectStore:
        if tier not in self._stores:
            raise StorageUnavailable(f"{tier} is not configured")
        return self._stores[tier]


def _failure(copy: Copy, problem: PacsError) -> Failure:
    return Failure(copy.StudyInstanceUID, copy.SOPInstanceUID, str(problem), problem.retryable)
