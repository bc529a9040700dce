"""Objects move to another tier, or are copied there: copy, verify at the destination, change the index, remove the old object.

At every moment the index names an object that is whole and verified. What a killed run leaves on its way is known to `Locations`
and removed by whoever works on the study next.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import structlog

from pacs_core.archive.placing import is_intact, record_of_file
from pacs_core.errors import ChecksumMismatch, IntegrityError, ObjectMissing, PacsError, RequestError, StorageUnavailable
from pacs_core.lifecycle.packaging import scratch_folder
from pacs_core.lifecycle.plan import Step
from pacs_core.model import UID, Change, Copy, CopyState, InstanceRecord, StoredObject
from pacs_core.ports import LandingStore, Locations, Locked, ObjectStore
from pacs_core.storage.configured import tier_named

log = structlog.get_logger(__name__)

_BATCH = 500  # objects, at most, between two changes of the index
_BATCH_BYTES = 32 << 20  # with which a batch is full
_BLOCK = 1 << 20
_REMOVERS = 8
_REMOVED_AT_ONCE = 64  # objects between two looks at whether we still may


@dataclass(frozen=True, slots=True)
class Failure:
    """An instance, or with SOPInstanceUID "" a whole study, for which nothing was done."""

    StudyInstanceUID: str
    SOPInstanceUID: str
    reason: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of some steps.

    Attributes:
        instances, bytes: for which it was done.
        studies: of which anything was done.
        busy: studies that another run works on; they are left to it.
        failures: what could not be done; everything else was.
    """

    instances: int = 0
    bytes: int = 0
    studies: int = 0
    busy: tuple[UID, ...] = ()
    failures: tuple[Failure, ...] = ()

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(
            self.instances + other.instances,
            self.bytes + other.bytes,
            self.studies + other.studies,
            self.busy + other.busy,
            self.failures + other.failures,
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """Objects of which copies are being made.

    Attributes:
        copies: what comes of each that may be copied: None, or the reason why it could not be.
        refused: those that may not.
    """

    objects: Sequence[StoredObject]
    copies: Mapping[StoredObject, Future[PacsError | None]]
    refused: Sequence[Failure]


_Choose = Callable[[Sequence[StoredObject]], Sequence[StoredObject]]
_Enter = Callable[[Sequence[StoredObject]], frozenset[UID]]


class Mover:
    """Moves and copies studies between tiers. Thread-safe.

    Args:
        stores: the tiers by name.
        locations: where instances are.
        landing: where instances arrive: a name that is taken there may be an arrival's, and is never overwritten.
        scratch: a directory for what comes from a remote tier and goes to another.
    """

    def __init__(self, stores: Mapping[str, ObjectStore], locations: Locations, landing: LandingStore, scratch: Path) -> None:
        self._stores = stores
        self._locations = locations
        self._landing = landing
        self._scratch = scratch

    def move(self, steps: Sequence[Step], change: Change, *, keep: bool = False) -> Moved:
        """Take steps of one source and target: their studies' objects change the tier.

        With `keep`, the old objects stay as further copies. One object's failure stops no other. StorageUnavailable if a tier that
        is named is not configured; IndexUnavailable.
        """
        target = steps[0].target
        return self._each_study(
            steps,
            change,
            wanted=lambda objects: objects,
            enter=lambda good: self._locations.moved(good, target, change, keep=keep),
        )

    def copy(self, steps: Sequence[Step], change: Change) -> Moved:
        """Take steps of one source and target: a further copy of every object that has none there yet. Errors as `move`."""
        target = steps[0].target
        return self._each_study(
            steps,
            change,
            wanted=lambda objects: self._without_copy(objects, target),
            enter=lambda good: self._locations.copied(good, target, change),
        )

    def settle(self, studies: Sequence[UID], change: Change) -> None:
        """Bring to an end what killed runs have left on its way, of studies whose lock is held."""
        unsettled = sorted({copy.StudyInstanceUID for copy in self._locations.copies(studies) if copy.state is not CopyState.HELD})
        if unsettled:
            self._locations.catch_up(unsettled, change)
            self._remove_departing(unsettled)

    def settle_left(self, change: Change) -> None:
        """The same for every study that nobody works on."""
        with self._locations.locked(self._locations.unsettled_studies()) as mine:
            self.settle(sorted(mine.studies), change)

    def _each_study(self, steps: Sequence[Step], change: Change, *, wanted: _Choose, enter: _Enter) -> Moved:
        """Copies of what is wanted of each study are made and entered into the index, and what then holds nothing is removed."""
        source, target = steps[0].source, steps[0].target
        for tier in (source, target):
            tier_named(self._stores, tier)
        named = [step.StudyInstanceUID for step in steps]
        done: set[UID] = set()

        def entered(good: Sequence[StoredObject]) -> frozenset[UID]:
            uids = enter(good)
            done.update(_studies(each for each in good if each.SOPInstanceUID in uids))
            return uids

        with self._locations.locked(named) as mine:
            studies = [study for study in named if study in mine]
            self.settle(studies, change)
            objects = [each for each in self._locations.objects(studies) if each.tier == source]
            if len(objects) != sum(step.instances for step in steps if step.StudyInstanceUID in mine):
                self._locations.catch_up(studies, change)  # the plan was the lake's: a run that kept its source may have died before it
            threads = ThreadPoolExecutor(tier_named(self._stores, target).concurrency, thread_name_prefix="transfer")
            try:
                result = _overlapped(
                    _batches(objects),
                    lambda batch: self._begin(batch, wanted(batch), target, change, threads),
                    lambda begun: self._conclude(begun, entered, mine),
                )
            finally:
                threads.shutdown(cancel_futures=True)
        return replace(result, studies=len(done), busy=tuple(study for study in named if study not in mine))

    def _begin(
        self, batch: Sequence[StoredObject], wanted: Sequence[StoredObject], target: str, change: Change, threads: ThreadPoolExecutor
    ) -> _Batch:
        ours = self._locations.announce(wanted, target, change.run) if wanted else frozenset[UID]()
        refused = [
            _failure(each, StorageUnavailable("its name there is that of an object that is being removed, or kept in quarantine"))
            for each in wanted
            if each.SOPInstanceUID not in ours
        ]
        copies = {each: threads.submit(self._attempt, each, target) for each in wanted if each.SOPInstanceUID in ours}
        return _Batch(batch, copies, refused)

    def _conclude(self, batch: _Batch, enter: _Enter, mine: Locked) -> Moved:
        """Once the copies are made: those that could be are entered, and the old objects go."""
        problems = {each: copy.result() for each, copy in batch.copies.items()}
        good = [each for each, problem in problems.items() if problem is None]
        mine.check()  # else an attempt of the same run after this one may be removing what we have copied
        entered = enter(good) if good else frozenset[UID]()
        self._remove_departing(sorted(_studies(batch.objects)))
        failed = [_failure(each, problem) for each, problem in problems.items() if problem is not None]
        return _outcome(good, entered, [*batch.refused, *failed])

    def _without_copy(self, objects: Sequence[StoredObject], target: str) -> Sequence[StoredObject]:
        present = {
            (copy.SOPInstanceUID, copy.sha256)
            for copy in self._locations.copies(sorted(_studies(objects)))
            if copy.tier == target and copy.state is CopyState.HELD
        }
        return [each for each in objects if (each.SOPInstanceUID, each.sha256) not in present]

    def _attempt(self, each: StoredObject, target: str) -> PacsError | None:
        try:
            with as_local_file(self._stores, each.tier, each.path, each.sha256, self._scratch) as source:
                if target == self._landing.tier:
                    bring_back(self._landing, each, source)
                else:
                    tier_named(self._stores, target).put(each.path, source, sha256=each.sha256)
        except PacsError as exc:
            tell = log.error if isinstance(exc, IntegrityError) else log.warning
            tell("object_not_copied", SOPInstanceUID=each.SOPInstanceUID, tier=each.tier, path=each.path, reason=str(exc))
            return exc
        return None

    def _remove_departing(self, studies: Sequence[UID]) -> None:
        """Remove objects that no longer hold an instance. What cannot be removed now is removed when its study is next worked on."""
        packages = {(copy.tier, copy.path) for copy in self._locations.copies(studies) if copy.member and copy.state is CopyState.HELD}
        with self._locations.departing(studies) as departure, ThreadPoolExecutor(_REMOVERS, thread_name_prefix="remove") as threads:
            objects = {(copy.tier, copy.path): copy for copy in departure.copies}  # a package is one, of many copies
            removed = dict.fromkeys(objects.keys() & packages, True)  # others of its members are held
            names = [name for name in objects if name not in removed]
            for at in range(0, len(names), _REMOVED_AT_ONCE):
                departure.check()
                part = names[at : at + _REMOVED_AT_ONCE]
                removed |= zip(part, threads.map(self._remove, [objects[name] for name in part]), strict=True)
            departure.gone.extend(copy for copy in departure.copies if removed[copy.tier, copy.path])

    def _remove(self, copy: Copy) -> bool:
        """Whether the copy's object is gone. What has its name where instances arrive may be an arrival's by now: that stays."""
        try:
            if copy.tier == self._landing.tier and not _has_bytes_of(self._landing.local_path(copy.path), copy):
                return True
            tier_named(self._stores, copy.tier).delete(copy.path)
        except PacsError as exc:
            log.warning("old_object_not_removed", SOPInstanceUID=copy.SOPInstanceUID, tier=copy.tier, path=copy.path, reason=str(exc))
            return False
        return True


@contextmanager
def as_local_file(stores: Mapping[str, ObjectStore], tier: str, path: str, sha256: str, scratch: Path) -> Iterator[Path]:
    """An object as a local file for as long as the context lasts: itself, or a checked copy in a scratch directory.

    StorageUnavailable, ObjectMissing, ObjectArchived; ChecksumMismatch for what had to be fetched.
    """
    store = tier_named(stores, tier)
    local = store.local_path(path)
    if local is not None:
        if not local.is_file():
            raise ObjectMissing(f"{path} is not on tier {tier}")
        yield local
        return
    with scratch_folder(scratch) as folder:
        target = folder / "object"
        store.fetch(path, target, sha256=sha256)
        yield target


def bring_back(landing: LandingStore, each: StoredObject, source: Path) -> None:
    """Put an object's bytes where instances arrive, durably, under its name.

    StorageUnavailable if another arrival has that, until it is settled; ChecksumMismatch if the source has other bytes.
    """
    incoming = landing.incoming()
    try:
        with reading(source) as file:
            while block := file.read(_BLOCK):
                incoming.write(block)
        if incoming.seal() != each.sha256:
            raise ChecksumMismatch(f"the copy of {each.path} does not hash to what was stored")
        if not landing.place(incoming, each.path, durable=True).created:
            if not is_intact(landing, each):
                raise StorageUnavailable(f"another arrival has the name {each.path} on tier {landing.tier}, for now")
            if landing.secure([each.path]):  # a run that was killed may have placed it and not synced it
                raise StorageUnavailable(f"{each.path} on tier {landing.tier} cannot be synced")
    finally:
        incoming.discard()


@contextmanager
def reading(file: Path) -> Iterator[io.BufferedReader]:
    """A local file. ObjectMissing, StorageUnavailable, also for what goes wrong while it is read."""
    try:
        with file.open("rb") as opened:
            yield opened
    except FileNotFoundError as exc:
        raise ObjectMissing(f"{file.name} is not where it was stored") from exc
    except OSError as exc:
        raise StorageUnavailable(f"{file.name} cannot be read: {exc.strerror}") from exc


def record_of(file: Path, *, tier: str, path: str) -> InstanceRecord:
    """The record of an object of this archive, made from its bytes alone. ChecksumMismatch if it is none; StorageUnavailable."""
    try:
        return record_of_file(file, tier=tier, path=path)
    except OSError as exc:
        raise StorageUnavailable(f"{path} cannot be read: {exc.strerror}") from exc
    except RequestError as exc:
        raise ChecksumMismatch(f"{path} is no object of this archive") from exc


def _has_bytes_of(file: Path, copy: Copy) -> bool:
    """Whether a file is the copy's object. StorageUnavailable if that cannot be told now."""
    try:
        with reading(file) as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == copy.sha256
    except ObjectMissing:
        return False


def _batches(objects: Iterable[StoredObject]) -> Iterator[Sequence[StoredObject]]:
    """What is moved between two changes of the index: whole studies, or parts of a large one."""
    batch: list[StoredObject] = []
    for _, group in groupby(sorted(objects, key=_study_of), _study_of):
        study = list(group)
        if len(batch) + len(study) > _BATCH and batch:
            yield batch
            batch = []
        for each in study:
            batch.append(each)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if sum(each.size for each in batch) >= _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _overlapped(
    batches: Iterable[Sequence[StoredObject]], begin: Callable[[Sequence[StoredObject]], _Batch], conclude: Callable[[_Batch], Moved]
) -> Moved:
    """While a batch is concluded the next is copied, unless they share a study: to conclude removes what is on its way."""
    total = Moved()
    before: _Batch | None = None
    for objects in batches:
        if before and _studies(before.objects) & _studies(objects):
            total += conclude(before)
            before = None
        begun = begin(objects)
        if before:
            total += conclude(before)
        before = begun
    return total + conclude(before) if before else total


def _study_of(each: StoredObject) -> UID:
    return each.StudyInstanceUID


def _studies(objects: Iterable[StoredObject]) -> frozenset[UID]:
    return frozenset(map(_study_of, objects))


def _outcome(good: Sequence[StoredObject], done: frozenset[UID], failures: Sequence[Failure]) -> Moved:
    """Of what was transferred, what the index took counts; what was replaced meanwhile is no failure. Its studies are not counted."""
    finished = [each for each in good if each.SOPInstanceUID in done]
    return Moved(
        instances=len(finished),
        bytes=sum(each.size for each in finished),
        failures=tuple(failures),
    )


def _failure(each: StoredObject, problem: PacsError) -> Failure:
    return Failure(each.StudyInstanceUID, each.SOPInstanceUID, str(problem), problem.retryable)
