"""That files are synced before the catalog names them."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pacs_core.errors import IndexUnavailable
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.durability import DataFiles
from pacs_core.index.keys import held_object
from tests.support.records import record
from tests.unit.index.conftest import Place


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of what is synced, in order."""
    paths: list[str] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    return paths


class Watched:
    """A lake connection that compares, at each COMMIT, the files there are with those that are synced."""

    def __init__(self, lake: Any, data_path: str, synced: list[str]) -> None:
        self._lake, self._data_path, self._synced = lake, data_path, synced
        self.commits = 0

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql == "COMMIT":
            self.commits += 1
            files = [path for path in Path(self._data_path).rglob("*") if path.is_file()]
            assert {str(path) for file in files for path in (file, file.parent)} <= set(self._synced)
        return self._lake.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lake, name)


def test_every_file_and_its_directory_is_synced_before_the_commit_that_names_it(
    place: Place, writer: LakeIndexWriter, synced: list[str]
) -> None:
    writer.commit([record(1)])
    watched = Watched(writer._lake, place.data_path, synced)
    writer._lake = watched  # type: ignore[assignment]
    for turn in range(34):  # enough to be merged
        writer.commit([record(turn * 60 + number) for number in range(60)])
    writer.commit([record(9000)])
    writer.mark_verified([held_object(record(9000)).object], datetime.now(UTC))
    before = watched.commits
    writer.flush()
    assert watched.commits >= before + 2  # flushed and merged
    assert any(path.endswith(".parquet") for path in synced)


def test_only_what_is_new_is_synced_again(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "a").write_bytes(b"a")
    files = DataFiles(str(tmp_path))
    files.sync()
    assert set(synced) == {str(tmp_path.parent), str(tmp_path), str(tmp_path / "main"), str(tmp_path / "main" / "a")}
    synced.clear()
    files.sync()
    assert synced == []
    (tmp_path / "main" / "b").write_bytes(b"b")
    files.sync()
    assert set(synced) == {str(tmp_path / "main"), str(tmp_path / "main" / "b")}


def test_a_remote_data_path_is_left_to_its_service(synced: list[str]) -> None:
    DataFiles("s3://bucket/index").sync()
    assert synced == []


def test_a_medium_that_fails_makes_the_commit_fail_and_the_next_one_complete_it(
    writer: LakeIndexWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    batch = [record(number) for number in range(60)]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        with pytest.raises(IndexUnavailable):
            writer.commit(batch)
    assert writer.commit(batch).repeated == 60
