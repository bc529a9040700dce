from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from pacs_core.archive.verification import Damage, Problem, compare_catalogs, verify_shard
from pacs_core.errors import ObjectArchived
from pacs_core.lifecycle.moving import Moved
from pacs_core.lifecycle.repairing import Repairer
from pacs_core.model import UID, StoredObject
from pacs_core.wiring import index, operations, tiers
from tests.support.crashing import Hooked
from tests.support.tiered import TieredHome, change


@pytest.fixture
def study(home: TieredHome) -> UID:
    """Held on warm, with a further copy on hot."""
    (study,) = home.take_in()
    operations.mover(home.settings, home.locations).move([home.step(study, "hot", "warm")], change(), keep=True)
    return study


def file_of(home: TieredHome, tier: str, path: str) -> Path:
    return Path(home.settings.tiers[tier].url) / path


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def swap(file: Path) -> None:
    """Another object of the archive under its name."""
    other = next(each for each in file.parent.glob("*.dcm") if each != file)
    file.write_bytes(other.read_bytes())


def repaired(home: TieredHome, problems: Sequence[Problem]) -> tuple[Moved, Sequence[StoredObject]]:
    with closing(index.index_writer(home.settings)) as writer:
        return operations.repairer(home.settings, home.locations).repair(problems, change("repaired"), writer)


def rows_of(home: TieredHome, study: UID) -> list[StoredObject]:
    return sorted(home.lake_rows(study), key=lambda each: each.path)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM lake.instance WHERE StudyInstanceUID = ?",
        "UPDATE lake.instance SET tier = 'cold' WHERE StudyInstanceUID = ?",
        "UPDATE lake.instance SET path = 'elsewhere.dcm' WHERE StudyInstanceUID = ?",
        "INSERT INTO lake.instance SELECT * FROM lake.instance WHERE StudyInstanceUID = ?",
    ],
)
def test_the_lake_is_told_again_what_the_keys_say(home: TieredHome, study: UID, statement: str) -> None:
    keys = sorted(home.objects(study), key=lambda each: each.path)
    with closing(index.index_writer(home.settings)) as writer, writer.committing() as (_, lake), writer.files.transaction(lake):
        lake.execute(statement, [study])
    problems = compare_catalogs(keys, home.lake_rows(study)).problems
    assert {problem.damage for problem in problems} == {Damage.INCONSISTENT}
    result, _ = repaired(home, problems)
    assert (result.instances, result.failures) == (len(problems), ())
    assert rows_of(home, study) == keys


def test_a_row_without_a_key_is_no_reason_to_hold_an_instance(home: TieredHome, study: UID) -> None:
    row = home.lake_rows(study)[0]
    with home.database.transaction() as session:
        session.run("""DELETE FROM pacs.instance_key WHERE "SOPInstanceUID" = :uid""", uid=row.SOPInstanceUID)
    result, _ = repaired(home, compare_catalogs(home.objects(study), home.lake_rows(study)).problems)
    assert (result.instances, [failure.SOPInstanceUID for failure in result.failures]) == (0, [row.SOPInstanceUID])
    assert len(home.objects(study)) == 2


def test_an_object_in_an_archive_class_is_not_written_over(home: TieredHome, study: UID) -> None:
    held = home.objects(study)[0]

    def archived(_method: object, path: str) -> NoReturn:
        raise ObjectArchived(path)

    stores = {**home.stores, "warm": Hooked(home.stores["warm"], archived, "open")}
    repairer = Repairer(stores, home.locations, tiers.landing(home.settings), home.settings.scratch_directory)
    problem = Problem(Damage.UNREADABLE, "warm", held.path, "", held.SOPInstanceUID, study)
    before = file_of(home, "warm", held.path).stat().st_ino
    with closing(index.index_writer(home.settings)) as writer:
        result, done = repairer.repair([problem], change("repaired"), writer)
    assert (result.instances, result.failures, list(done)) == (0, (), [])
    assert file_of(home, "warm", held.path).stat().st_ino == before


@pytest.mark.parametrize("damage", [flip, truncate, swap, Path.unlink])
@pytest.mark.parametrize("tier", ["hot", "warm"])
def test_what_is_damaged_is_written_anew_from_the_other_copy(
    home: TieredHome, study: UID, tier: str, damage: Callable[[Path], object]
) -> None:
    places = [home.objects(study)[0]]
    places += [_as_on(places[0], "hot")]
    (victim,) = (each for each in places if each.tier == tier)
    damage(file_of(home, tier, victim.path))
    problems = verify_shard(home.stores, [victim]).problems
    assert len(problems) == 1
    result, done = repaired(home, problems)
    assert (result.instances, result.failures) == (1, ())
    assert [(each.tier, each.path) for each in done] == [(tier, victim.path)]
    assert all(home.is_intact(each) for each in places)


def test_what_has_no_other_good_copy_is_said_to_have_none(home: TieredHome) -> None:
    (study,) = home.take_in()
    victim = home.objects(study)[0]
    flip(file_of(home, "hot", victim.path))
    before = file_of(home, "hot", victim.path).read_bytes()
    result, done = repaired(home, verify_shard(home.stores, [victim]).problems)
    assert not done
    assert [(failure.SOPInstanceUID, failure.retryable) for failure in result.failures] == [(victim.SOPInstanceUID, False)]
    assert file_of(home, "hot", victim.path).read_bytes() == before


def test_what_is_good_by_now_and_what_is_elsewhere_is_left_alone(home: TieredHome, study: UID) -> None:
    held = home.objects(study)[0]
    problems = [
        Problem(problem, held.tier, path, "", held.SOPInstanceUID, study)
        for problem, path in ((verify_shard(home.stores, [_as_on(held, "cold")]).problems[0].damage, held.path),)
    ]
    problems.append(Problem(problems[0].damage, "cold", held.path, "", held.SOPInstanceUID, study))
    result, done = repaired(home, problems)
    assert (result.instances, result.failures, list(done)) == (0, (), [])
    assert not home.paths("cold", study)


def test_keys_and_lake_are_compared(home: TieredHome, study: UID) -> None:
    keys, rows = home.objects(study), home.lake_rows(study)
    assert not compare_catalogs(keys, rows).problems
    assert len(compare_catalogs(keys, rows[1:]).problems) == 1
    assert len(compare_catalogs(keys[1:], rows).problems) == 1
    assert len(compare_catalogs(keys, [*rows, rows[0]]).problems) == 1
    assert len(compare_catalogs(keys, [_as_on(rows[0], "cold"), *rows[1:]]).problems) == 1


def _as_on(each: StoredObject, tier: str) -> StoredObject:
    return StoredObject(**{name: getattr(each, name) for name in StoredObject.__dataclass_fields__ if name != "tier"}, tier=tier)
