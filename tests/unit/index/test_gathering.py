"""The order of what was gathered, and which of several objects holds an instance."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pacs_core.index.gathering import Gathered, GatheredFiles, write_gathered

START = datetime(2024, 2, 29, tzinfo=UTC)


def gathered(instance: str, seconds: int, *, rank: int = 0, replacement: bool = False) -> Gathered:
    name = f"{instance}@{seconds}/{rank}{'~' if replacement else ''}"
    return Gathered(instance, START + timedelta(seconds=seconds), replacement, rank, name, "0" * 64, name)


def files(folder: Path, found: list[Gathered]) -> list[Path]:
    """In files of seven; one file is empty."""
    parts = [found[start : start + 7] for start in range(0, len(found), 7)] + [[]]
    for number, part in enumerate(parts):
        write_gathered(folder / f"{number}.parquet", part)
    return [folder / f"{number}.parquet" for number in range(len(parts))]


@pytest.mark.parametrize("at_once", [2, 10, 1000])
def test_the_order_is_that_of_reception_however_much_is_sorted_at_once(tmp_path: Path, at_once: int) -> None:
    expected = [gathered(f"1.{number:03}", number // 3) for number in range(50)]
    found = random.Random(1).sample(expected, len(expected))  # noqa: S311  # no secret
    all_of_them = GatheredFiles(files(tmp_path, found), at_once=at_once)
    assert list(all_of_them.holders()) == [each.content for each in expected]
    assert list(all_of_them.others()) == []


@pytest.mark.parametrize(
    ("holder", "others"),
    [
        (gathered("1", 5, rank=0), [gathered("1", 5, rank=1), gathered("1", 5, rank=2)]),
        (gathered("1", 5, rank=1), [gathered("1", 6, rank=0)]),
        (gathered("1", 6, replacement=True), [gathered("1", 5), gathered("1", 5, replacement=True)]),
    ],
)
def test_one_of_several_objects_holds_the_instance(tmp_path: Path, holder: Gathered, others: list[Gathered]) -> None:
    unrelated = [gathered(f"2.{number}", number) for number in range(5, 15)]
    all_of_them = GatheredFiles(files(tmp_path, [*others, *unrelated, holder]), at_once=3)
    assert sorted(all_of_them.holders()) == sorted(each.content for each in (holder, *unrelated))
    assert sorted(all_of_them.others()) == sorted(each.content for each in others)


def test_nothing_is_found_in_empty_files(tmp_path: Path) -> None:
    assert list(GatheredFiles(files(tmp_path, [])).holders()) == []
