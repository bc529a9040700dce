"""Can we commit to keeping instances? Their bytes are looked for and read, wherever they are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from os import SEEK_END

from pacs_core.archive.verification import verify_shard
from pacs_core.errors import ObjectArchived, ObjectMissing, StorageUnavailable
from pacs_core.model import UID, StoredObject
from pacs_core.ports import Copies, ObjectStore
from pacs_core.ports.commitment import Reference
from pacs_core.storage.configured import tier_named

# What is found of an instance: nothing, one of another SOP class, only damaged objects, or a good one.
MISSING, OTHER_CLASS, DAMAGED, GOOD = "missing", "other class", "damaged", "good"

_AT_ONCE = 500  # instances that are asked for in one query


class Safekeeping:
    """Looks at instances. Thread-safe; changes nothing.

    Args:
        stores: the tiers by name.
        copies: where instances and their further copies are.
        read: whether objects are read and compared with their SHA-256; otherwise they have to be there, with their size.
    """

    def __init__(self, stores: Mapping[str, ObjectStore], copies: Copies, *, read: bool) -> None:
        self._stores = stores
        self._copies = copies
        self._is_good: Callable[[StoredObject], bool] = self._is_intact if read else self._has_its_size

    def look(self, references: Sequence[Reference]) -> Iterator[str]:
        """What is found of each, in their order. One good object of an instance is enough.

        An object in an archive class is good if its provider says that it has it. StorageUnavailable if that cannot be told for now:
        a tier that does not answer may hold the good one.
        """
        for start in range(0, len(references), _AT_ONCE):
            batch = references[start : start + _AT_ONCE]
            places = self._copies.copies([UID(each.SOPInstanceUID) for each in batch])
            for reference in batch:
                yield self._found(reference, places.get(UID(reference.SOPInstanceUID), ()))

    def _found(self, reference: Reference, places: Sequence[StoredObject]) -> str:
        if not places:
            return MISSING
        if places[0].SOPClassUID != reference.SOPClassUID:
            return OTHER_CLASS
        unavailable: StorageUnavailable | None = None
        for place in places:
            try:
                if self._is_good(place):
                    return GOOD
            except StorageUnavailable as exc:
                unavailable = exc
        if unavailable is not None:
            raise unavailable
        return DAMAGED

    def _is_intact(self, place: StoredObject) -> bool:
        report = verify_shard(self._stores, [place])
        return bool(report.intact) or (not report.problems and tier_named(self._stores, place.tier).exists(place.path))

    def _has_its_size(self, place: StoredObject) -> bool:
        try:
            with closing(tier_named(self._stores, place.tier).open(place.path)) as content:
                return content.seek(0, SEEK_END) == place.size
        except ObjectMissing:
            return False
        except ObjectArchived:
            return tier_named(self._stores, place.tier).exists(place.path)
