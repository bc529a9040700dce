"""Where the index says that instances are, and whether their bytes are there."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from pacs_core.errors import PacsError
from pacs_core.lifecycle.packaging import check_package, form_of, local_package
from pacs_core.model import UID, StoredObject
from pacs_core.wiring import index
from tests.support.tiered import TieredHome

_THREADS = 8
_LOOKS = 5
_BLOCK = 1 << 20
_PLACES = """
    SELECT "SOPInstanceUID", "StudyInstanceUID", tier, path, '' AS member, sha256 FROM pacs.instance_key WHERE {among}
    UNION
    SELECT "SOPInstanceUID", "StudyInstanceUID", tier, path, member, sha256 FROM pacs.instance_copy WHERE state = 'held' AND {among}
"""
_AMONG = '"StudyInstanceUID" = ANY(CAST(:studies AS text[]))'
_ON_THEIR_WAY = """
    SELECT EXISTS (SELECT 1 FROM pacs.instance_copy WHERE state <> 'held')
        OR EXISTS (SELECT 1 FROM pacs.removed_instance WHERE state = 'leaving')
"""
_STUDY_LOCKED = """
    SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'pacs-study-lock' AND datname = current_database())
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance is said to be: an object, or with `member` a part of a package."""

    SOPInstanceUID: UID
    StudyInstanceUID: UID
    tier: str
    path: str
    member: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at one moment, by SOPInstanceUID.

    Attributes:
        good: instances of which at least one place has the bytes.
        wrong: places that the index named before and after they were found not to have the bytes.
    """

    good: frozenset[UID]
    wrong: Sequence[str]


class Places:
    """The places of a home's instances, while flows may be at work on them."""

    def __init__(self, home: TieredHome) -> None:
        self._home = home

    def named(self, studies: Collection[str] | None = None) -> frozenset[Place]:
        """All keys and held copies, or those of some studies."""
        with self._home.database.transaction() as session:
            if studies is None:
                rows = session.run(_PLACES.format(among="true"))
            else:
                rows = session.run(_PLACES.format(among=_AMONG), studies=sorted(studies))
        return frozenset(Place(*row) for row in rows)

    def look(self, studies: Collection[str] | None = None) -> Look:
        """Read every place. Where one is wrong its study is read again as the index has it then: it may have been on the move."""
        good: set[UID] = set()
        suspects = self.named(studies)
        wrong: frozenset[Place] = frozenset()
        for _ in range(_LOOKS):
            intact = self._intact(suspects)
            good |= {place.SOPInstanceUID for place in intact}
            wrong = suspects - intact
            if not wrong:
                break
            suspects = self.named({place.StudyInstanceUID for place in wrong})
        return Look(frozenset(good), sorted(map(str, wrong & suspects)))

    def lake_differences(self) -> Sequence[str]:
        """Where the lake does not say what the keys say. To be called when no flow is at work."""
        with self._home.database.transaction() as session:
            keys = {tuple(row) for row in session.run('SELECT "SOPInstanceUID", tier, path, sha256 FROM pacs.instance_key')}
        with closing(index.index_reader(self._home.settings)) as reader:
            rows = {(each.SOPInstanceUID, each.tier, each.path, each.sha256) for each in reader.stored_objects()}
        return sorted(f"{uid} on {tier}" for uid, tier, *_ in keys ^ rows)

    def unknown(self) -> Sequence[str]:
        """Objects that nothing knows of. To be called when no flow is at work."""
        return sorted(
            f"{path} on {name}"
            for name, store in self._home.stores.items()
            for path in {path for path, _ in store.list()} - set(self._home.locations.names(name))
        )

    def on_their_way(self) -> bool:
        """Whether an object is between two places, or an instance on its way out."""
        return self._holds(_ON_THEIR_WAY)

    def are_worked_on(self) -> bool:
        """Whether somebody works on a study."""
        return self._holds(_STUDY_LOCKED)

    def _holds(self, query: str) -> bool:
        with self._home.database.transaction() as session:
            ((holds,),) = session.run(query)
        return bool(holds)

    def _intact(self, places: Collection[Place]) -> frozenset[Place]:
        objects: dict[tuple[str, str], list[Place]] = defaultdict(list)
        for place in places:
            objects[place.tier, place.path].append(place)
        with ThreadPoolExecutor(_THREADS) as threads:
            return frozenset(place for found in threads.map(self._intact_of_object, objects.values()) for place in found)

    def _intact_of_object(self, places: Sequence[Place]) -> Sequence[Place]:
        """Of the places that are one object, those whose bytes it has."""
        store, path = self._home.stores[places[0].tier], places[0].path
        try:
            if places[0].member:
                with local_package(store, path, self._home.settings.scratch_directory) as package:
                    check_package(package, form_of(path), [_stored(place) for place in places])
                return places
            with store.open(path) as file:
                digest = hashlib.sha256(file.read()).hexdigest()
        except PacsError:
            return ()
        return [place for place in places if place.sha256 == digest]


def _stored(place: Place) -> StoredObject:
    """A member as an object of its package; what the index does not tell of a copy is not asked for either."""
    nothing = UID("")
    return StoredObject(place.SOPInstanceUID, nothing, nothing, nothing, place.StudyInstanceUID, place.tier, place.member, 0, place.sha256)
