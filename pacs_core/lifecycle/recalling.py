"""Studies that somebody wants back from an archive class: their provider is asked, and it is noted when they can be read.

One round asks and looks, and waits for nothing: a provider takes minutes to days. A round may be repeated at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pacs_core.errors import ObjectMissing, PacsError
from pacs_core.model import UID, Availability, StoredObject
from pacs_core.ports import Copies, ObjectStore, Recalls
from pacs_core.storage.configured import tier_named


@dataclass(frozen=True, slots=True)
class RecalledStudy:
    """What a round found of one study, in objects.

    Attributes:
        online: that can be read.
        asked: that the provider was asked for in this round, or would have been.
        rehydrating: that it had been asked for before.
        missing: that are nowhere; nothing can bring them.
        failed: of which this could not be told, or for which could not be asked.
        reason: the first thing that went wrong.
    """

    StudyInstanceUID: UID
    online: int = 0
    asked: int = 0
    rehydrating: int = 0
    missing: int = 0
    failed: int = 0
    reason: str = ""

    @property
    def available(self) -> bool:
        """Whether all of it that is held can be read."""
        return not (self.asked or self.rehydrating or self.failed)


Locate = Callable[[UID], Sequence[StoredObject]]
_Found = Availability | PacsError


def recall(
    recalls: Recalls, locate: Locate, copies: Copies, stores: Mapping[str, ObjectStore], *, dry_run: bool = False
) -> Sequence[RecalledStudy]:
    """One round over all studies that are wanted. What fails for one of them is told and does not keep the others.

    Args:
        locate: the instances of a study.
        dry_run: look, and neither ask nor record anything.
    """
    results = []
    for wanted in recalls.wanted():
        study = wanted.StudyInstanceUID
        try:
            result = _look(study, locate(study), copies, stores, dry_run=dry_run)
        except PacsError as exc:
            result = RecalledStudy(study, failed=1, reason=str(exc))
        if not dry_run:
            _record(recalls, result)
        results.append(result)
    return results


def _record(recalls: Recalls, result: RecalledStudy) -> None:
    study = result.StudyInstanceUID
    if not (result.online or result.asked or result.rehydrating or result.failed):
        recalls.done(study)  # nothing is held of it any more
    elif result.available:
        recalls.available(study)
    elif not result.failed:
        recalls.asked(study)


def _look(
    study: UID, objects: Sequence[StoredObject], copies: Copies, stores: Mapping[str, ObjectStore], *, dry_run: bool
) -> RecalledStudy:
    most = max((stores[each.tier].concurrency for each in objects if each.tier in stores), default=1)
    with ThreadPoolExecutor(max(1, most), "recall") as threads:
        found = list(threads.map(lambda each: _ask(each, copies, stores, dry_run=dry_run), objects))
    errors = [each for each in found if isinstance(each, PacsError) and not isinstance(each, ObjectMissing)]
    return RecalledStudy(
        study,
        online=found.count(Availability.ONLINE),
        asked=found.count(Availability.ARCHIVED),
        rehydrating=found.count(Availability.REHYDRATING),
        missing=sum(isinstance(each, ObjectMissing) for each in found),
        failed=len(errors),
        reason=str(errors[0]) if errors else "",
    )


def _ask(each: StoredObject, copies: Copies, stores: Mapping[str, ObjectStore], *, dry_run: bool) -> _Found:
    """Whether an instance could be read before this; where it could not, its provider has been asked for it."""
    try:
        return _ask_at(each, stores, dry_run=dry_run)
    except PacsError as exc:
        failure = exc
    try:
        for place in copies.copies([each.SOPInstanceUID]).get(each.SOPInstanceUID, ()):
            if (place.tier, place.path) != (each.tier, each.path) and place.sha256 == each.sha256:
                return _ask_at(place, stores, dry_run=dry_run)
    except PacsError as exc:
        return exc
    return failure


def _ask_at(each: StoredObject, stores: Mapping[str, ObjectStore], *, dry_run: bool) -> Availability:
    store = tier_named(stores, each.tier)
    found = store.availability(each.path)
    if found is Availability.ARCHIVED and not dry_run:
        store.rehydrate(each.path)
    return found
