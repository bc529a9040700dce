"""One round of recalling over fake tiers: what is archived is asked for, what can be read is noted, what fails keeps nobody."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pacs_core.errors import IndexUnavailable
from pacs_core.lifecycle.recalling import RecalledStudy, recall
from pacs_core.model import UID, Availability, Recall, StoredObject
from tests.support.retrieving import FakeCopies, FakeRecalls, MemoryStore


class Wanted(FakeRecalls):
    """Remembers what it is told of the studies."""

    def __init__(self, *studies: str) -> None:
        super().__init__()
        self.studies = list(studies)
        self.told: list[tuple[str, str]] = []

    def wanted(self) -> Sequence[Recall]:
        return [Recall(UID(study), datetime(2024, 5, 6, tzinfo=UTC)) for study in self.studies]

    def asked(self, study: UID) -> None:
        self.told.append(("asked", study))

    def available(self, study: UID) -> None:
        self.told.append(("available", study))

    def done(self, study: UID) -> None:
        self.told.append(("done", study))


def archive(cold: MemoryStore, *, tier: str = "cold") -> dict[str, list[StoredObject]]:
    """Two studies of three objects on the tier."""
    studies: dict[str, list[StoredObject]] = {}
    for study in ("1.1", "1.2"):
        for number in range(3):
            path = f"{study}/{number}.dcm"
            cold.objects[path] = b"x"
            cold.states[path] = Availability.ARCHIVED
            uid = UID(f"{study}.{number}")
            studies.setdefault(study, []).append(StoredObject(uid, UID("1"), UID("1"), UID("1.9"), UID(study), tier, path, 1, "d"))
    return studies


def test_a_study_is_asked_for_once_and_available_when_all_of_it_is() -> None:
    cold, recalls = MemoryStore(), Wanted("1.1")
    studies = archive(cold)

    def round_() -> RecalledStudy:
        (result,) = recall(recalls, studies.__getitem__, FakeCopies(), {"cold": cold})
        return result

    assert round_() == RecalledStudy(UID("1.1"), asked=3)
    assert round_() == RecalledStudy(UID("1.1"), rehydrating=3)
    cold.states["1.1/0.dcm"] = Availability.ONLINE
    assert round_() == RecalledStudy(UID("1.1"), online=1, rehydrating=2)
    cold.states.clear()
    assert round_() == RecalledStudy(UID("1.1"), online=3)
    assert [what for what, _ in recalls.told] == ["asked", "asked", "asked", "available"]
    assert sorted(cold.rehydrated) == [f"1.1/{number}.dcm" for number in range(3)]


def test_a_dry_run_asks_and_records_nothing() -> None:
    cold, recalls = MemoryStore(), Wanted("1.1", "1.2")
    studies = archive(cold)
    results = recall(recalls, studies.__getitem__, FakeCopies(), {"cold": cold}, dry_run=True)
    assert [each.asked for each in results] == [3, 3]
    assert (cold.rehydrated, recalls.told) == ([], [])


def test_what_fails_for_one_study_does_not_keep_the_next() -> None:
    cold, recalls = MemoryStore(), Wanted("1.1", "1.2")
    studies = archive(cold)

    def locate(study: UID) -> Sequence[StoredObject]:
        if study == "1.1":
            raise IndexUnavailable("away")
        return studies[study]

    first, second = recall(recalls, locate, FakeCopies(), {"cold": cold})
    assert (first.failed, first.reason, second.asked) == (1, "away", 3)
    assert recalls.told == [("asked", "1.2")]


def test_a_tier_that_is_not_configured_is_a_failure_and_not_available() -> None:
    cold, recalls = MemoryStore(), Wanted("1.1")
    studies = archive(cold, tier="elsewhere")
    (result,) = recall(recalls, studies.__getitem__, FakeCopies(), {"cold": cold})
    assert (result.failed, result.available, recalls.told) == (3, False, [])


def test_missing_objects_keep_nobody_waiting_and_their_copies_are_asked_for() -> None:
    cold, recalls = MemoryStore(), Wanted("1.1")
    studies = archive(cold)
    cold.states.clear()
    for number in range(2):
        del cold.objects[f"1.1/{number}.dcm"]
    first = studies["1.1"][0]
    cold.objects["copy"], cold.states["copy"] = b"x", Availability.ARCHIVED
    place = replace(first, path="copy")
    (result,) = recall(recalls, studies.__getitem__, FakeCopies({first.SOPInstanceUID: [first, place]}), {"cold": cold})
    assert result == RecalledStudy(UID("1.1"), online=1, asked=1, missing=1)
    assert cold.rehydrated == ["copy"]


def test_a_study_of_which_nothing_is_held_is_forgotten() -> None:
    recalls = Wanted("1.1")
    recall(recalls, lambda _: (), FakeCopies(), {})
    assert recalls.told == [("done", "1.1")]
