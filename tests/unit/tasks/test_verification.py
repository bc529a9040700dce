"""What a verification looks at beside what is held: copies and packages of removed studies, and quarantine."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import tasks.verification
from pacs_core.archive.verification import Damage
from pacs_core.lifecycle.packaging import Form
from pacs_core.model import UID, Copy, RemovedState
from pacs_core.wiring import operations, tiers
from tasks.verification import Verified, plan_shards, study_shard, verify_shard
from tests.support.tiered import TieredHome, as_planned, change
from tests.unit.lifecycle.conftest import catalogs, home

__all__ = ["catalogs", "home"]

LATER, PAST = datetime(2999, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _settings(home: TieredHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.verification, "load_settings", lambda: home.settings)


def is_planned(study: UID, *, percent: float = 100) -> bool:
    return any(study in shard.studies for shard in plan_shards.fn(percent))


def verified(study: UID, *, repair: bool = False) -> Verified:
    return verify_shard.fn(1, study_shard(study), 100.0, "run-1", repair=repair)


def removed(home: TieredHome, form: Form | None = None, *, tier: str = "hot", until: datetime = LATER) -> UID:
    """A study of three that retention has removed, archived on cold in that form."""
    (study,) = home.take_in()
    if tier != "hot":
        operations.mover(home.settings, home.locations).move([home.step(study, "hot", tier)], change())
    if form is not None:
        operations.archiver(home.settings, home.locations).archive([home.step(study, tier, "cold")], change("archived"), form)
    retention = operations.retention(home.settings, home.locations, home.removals)
    retention.remove([home.step(study, tier, "")], change("removed"), until, named=as_planned, require_copy=False)
    retention.destroy(home.removals.all(RemovedState.QUARANTINED, studies=[study], due_at=datetime.now(UTC)), change("destroyed"))
    return study


def file_of(home: TieredHome, copy: Copy) -> Path:
    return Path(home.settings.tiers[copy.tier].url) / copy.path


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("form", Form)
def test_copies_of_a_removed_study_are_verified(home: TieredHome, form: Form) -> None:
    study = removed(home, form, until=PAST)
    assert is_planned(study)
    report = verified(study).report
    assert (report.checked, report.problems) == (3, ())
    assert all(copy.verified_at is not None and copy.verified_at > copy.since for copy in home.locations.copies([study]))
    flip(file_of(home, home.locations.copies([study])[0]))
    assert [problem.damage for problem in verified(study).report.problems] == [Damage.CORRUPT]
    file_of(home, home.locations.copies([study])[0]).unlink()
    assert [problem.damage for problem in verified(study).report.problems] == [Damage.MISSING]


@pytest.mark.parametrize("tier", ["hot", "warm"])
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_what_is_in_quarantine_is_verified(home: TieredHome, tier: str, damage: Callable[[Path], object]) -> None:
    study = removed(home, tier=tier)
    assert is_planned(study)
    assert verified(study).report.checked == 3
    victim = home.removals.all(RemovedState.QUARANTINED, studies=[study])[0]
    retired = tiers.landing(home.settings).retired(victim.sha256)
    damage(retired if tier == "hot" else Path(home.settings.tiers[tier].url) / victim.path)
    assert [problem.SOPInstanceUID for problem in verified(study).report.problems] == [victim.SOPInstanceUID]


def test_a_share_is_of_copies_too_and_leaves_quarantine_to_whole_runs(home: TieredHome) -> None:
    """Nothing would remember that it was read, and it would have its turn each time."""
    copied, quarantined = removed(home, Form.ZIP, until=PAST), removed(home)
    with home.database.transaction() as session:
        session.run("""UPDATE pacs.instance_copy SET verified_at = '2000-01-01' WHERE "StudyInstanceUID" = :study""", study=copied)
    assert is_planned(copied, percent=1)
    assert not is_planned(quarantined, percent=99)


def test_a_damaged_copy_of_a_removed_study_is_written_anew_from_another(home: TieredHome) -> None:
    (study,) = home.take_in(instances=1)
    archiver = operations.archiver(home.settings, home.locations)
    for target in ("warm", "cold"):
        archiver.archive([home.step(study, "hot", target)], change("archived"), Form.OBJECTS)
    retention = operations.retention(home.settings, home.locations, home.removals)
    retention.remove([home.step(study, "hot", "")], change("removed"), LATER, named=as_planned, require_copy=False)
    flip(file_of(home, home.locations.copies([study])[0]))
    assert len(verified(study, repair=True).repaired) == 1
    assert not verified(study).report.problems
