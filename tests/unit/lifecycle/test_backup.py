"""A backup is the whole index of one moment, and restoring it gives that index back."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pacs_core.errors import ChecksumMismatch, ConfigurationError, NotFound, StorageUnavailable
from pacs_core.index.backup import IndexBackup
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.contents import digests
from pacs_core.index.keys import held_object
from pacs_core.index.lake import LakeReader
from pacs_core.index.operational import FlowRuns, Peers
from pacs_core.index.postgres import Database
from pacs_core.lifecycle.backup import Backups
from pacs_core.model import AETitle, Peer
from pacs_core.storage.tiers import open_tier
from tests.support.records import record
from tests.unit.index.conftest import Place

NewPlace = Callable[[], Place]


def index_of(place: Place) -> IndexBackup:
    return IndexBackup(place.catalog_url, place.data_path, LakeIndexWriter(place.catalog_url, place.data_path))


def contents(place: Place) -> tuple[Any, Any]:
    """Every row of the lake, and of every operational table but those that are of the index itself."""
    with closing(LakeReader(place.catalog_url, place.data_path)) as lake:
        rows = digests(lake, everything=True)
    with closing(Database(place.catalog_url)) as database, database.transaction() as session:
        names = [name for (name,) in session.run("SELECT tablename FROM pg_tables WHERE schemaname = 'pacs' ORDER BY 1")]
        tables = {name: list(session.run(f'SELECT t::text FROM pacs."{name}" t ORDER BY 1')) for name in names}
    del tables["committer"], tables["migration"]
    return rows, tables


@pytest.fixture
def filled(new_place: NewPlace) -> Place:
    """An index with something in many tables."""
    place = new_place()
    with closing(LakeIndexWriter(place.catalog_url, place.data_path)) as writer:
        writer.commit([record(number, header={"PatientName": 'Doe "\n,\\N^Jörg', "StudyDescription": ""}) for number in range(60)])
        writer.commit([record(number, study="1.2", series="1.2.1") for number in range(5)])
        writer.mark_verified([held_object(record(1)).object], datetime.now(UTC))
    with closing(Database(place.catalog_url)) as database:
        Peers(database).put(Peer(AETitle("OTHER"), "10.0.0.1", 104))
        FlowRuns(database).start("run", "verify", started_at=datetime.now(UTC), parameters={"a": '\\N "quoted" é\n'})
        with database.transaction() as session:
            session.run("INSERT INTO pacs.hold VALUES ('1.2', E'a \\\\ reason\\twith\\nlines', '', now(), NULL)")
            for number in range(3):
                session.run(
                    'INSERT INTO pacs.study_event ("StudyInstanceUID", action, from_tier, to_tier, instances, bytes, flow, policy, run_id)'
                    " VALUES (:study, 'moved', 'hot', 'warm', 1, 2, 'migrate', '', 'run')",
                    study=f"1.{number}",
                )
    return place


@pytest.fixture
def backups(tmp_path: Path) -> Iterator[Backups]:
    yield Backups(open_tier(str(tmp_path / "backups")), tmp_path / "scratch")
    assert list((tmp_path / "scratch").glob("*")) == []


def test_a_restored_index_has_every_row_and_goes_on(filled: Place, new_place: NewPlace, backups: Backups) -> None:
    before = contents(filled)
    with closing(index_of(filled)) as index:
        made = backups.make(index, keep=3)
    other = new_place()
    with closing(index_of(other)) as index:
        assert backups.restore(index) == made
    assert contents(other) == before
    with closing(LakeIndexWriter(other.catalog_url, other.data_path)) as writer:
        result = writer.commit([record(3), record(70)])
    assert (result.inserted, result.repeated) == (1, 1)
    with closing(Database(other.catalog_url)) as database, database.transaction() as session:
        ((number,),) = session.run(
            'INSERT INTO pacs.study_event ("StudyInstanceUID", action, from_tier, to_tier, instances, bytes, flow, policy, run_id)'
            " VALUES ('1', 'moved', '', '', 1, 2, '', '', '') RETURNING number"
        )
    assert number == 4


def test_the_manifest_tells_what_is_in_it(filled: Place, backups: Backups, tmp_path: Path) -> None:
    told: list[str] = []
    with closing(index_of(filled)) as index:
        made = backups.make(index, keep=3, told=told.append)
    manifest = json.loads((tmp_path / "backups" / made.name / "manifest.json").read_text())
    rows = {file["name"]: file["rows"] for file in manifest["files"]}
    assert rows["lake.instance.parquet"] == rows["pacs.instance_key.csv.gz"] == 65
    assert (rows["lake.study.parquet"], rows["pacs.peer.csv.gz"], rows["pacs.study_event.csv.gz"]) == (2, 1, 3)
    assert manifest["format"] == 1
    assert manifest["snapshot"] > 0
    assert sorted(told) == sorted(rows)
    assert {path.name for path in (tmp_path / "backups" / made.name).iterdir()} == {*rows, "manifest.json"}


def test_it_is_of_the_moment_in_which_it_was_begun(filled: Place, new_place: NewPlace, backups: Backups) -> None:
    before = contents(filled)
    writer = LakeIndexWriter(filled.catalog_url, filled.data_path)

    def interfere(name: str) -> None:
        number = 100 + sum(map(ord, name))
        writer.commit([record(number, study=f"9.{number}", series=f"9.{number}.1")])

    with closing(writer), closing(index_of(filled)) as index:
        backups.make(index, keep=3, told=interfere)
    assert contents(filled) != before
    other = new_place()
    with closing(index_of(other)) as index:
        backups.restore(index)
    assert contents(other) == before


def test_an_index_that_is_not_empty_is_overwritten_only_when_that_is_said(filled: Place, new_place: NewPlace, backups: Backups) -> None:
    before = contents(filled)
    with closing(index_of(filled)) as index:
        backups.make(index, keep=3)
    with closing(LakeIndexWriter(filled.catalog_url, filled.data_path)) as idle:
        idle.commit([record(200, study="2.1", series="2.1.1"), record(201)])
        changed = contents(filled)
        with closing(index_of(filled)) as index:
            with pytest.raises(ConfigurationError, match="not empty"):
                backups.restore(index)
            assert contents(filled) == changed
            backups.restore(index, overwrite=True)
        assert contents(filled) == before
        # The committer that was there before knows study 2.1 from before the restore.
        idle.commit([record(202, study="2.1", series="2.1.1")])
    with closing(LakeReader(filled.catalog_url, filled.data_path)) as lake:
        assert list(lake.rows("SELECT count(*) FROM lake.study WHERE StudyInstanceUID = '2.1'")) == [(1,)]


@pytest.mark.parametrize("victim", ["lake.instance.parquet", "pacs.peer.csv.gz"])
def test_a_damaged_backup_is_refused_before_anything_changes(filled: Place, backups: Backups, tmp_path: Path, victim: str) -> None:
    with closing(index_of(filled)) as index:
        made = backups.make(index, keep=3)
        path = tmp_path / "backups" / made.name / victim
        path.chmod(0o600)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        before = contents(filled)
        with pytest.raises(ChecksumMismatch):
            backups.restore(index, overwrite=True)
        assert contents(filled) == before


def test_a_backup_of_a_newer_version_is_refused(filled: Place, backups: Backups, tmp_path: Path) -> None:
    with closing(index_of(filled)) as index:
        made = backups.make(index, keep=3)
        path = tmp_path / "backups" / made.name / "manifest.json"
        manifest = json.loads(path.read_text())
        path.chmod(0o600)
        path.write_text(json.dumps({**manifest, "format": 2}))
        with pytest.raises(ConfigurationError, match="newer version"):
            backups.restore(index, overwrite=True)
        path.write_text("{")
        with pytest.raises(ChecksumMismatch):
            backups.restore(index, overwrite=True)


def test_old_backups_go_and_what_is_in_the_making_stays(filled: Place, backups: Backups, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    for name in ("index-20200101T000000000000Z-abcdef", "index-29990101T000000000000Z-abcdef"):
        (folder / name).mkdir(parents=True)
        (folder / name / "lake.patient.parquet").write_bytes(b"half")
    (folder / "something else").mkdir()
    (folder / "something else" / "manifest.json").write_text("{}")
    with closing(index_of(filled)) as index:
        made = [backups.make(index, keep=2).name for _ in range(3)]
    assert [each.name for each in backups.all()] == made[1:]
    left = {path.parent.name for path in folder.rglob("*") if path.is_file()}
    assert left == {*made[1:], "index-29990101T000000000000Z-abcdef", "something else"}
    assert backups.get(made[1]).name == made[1]
    with pytest.raises(NotFound):
        backups.get(made[0])


def test_a_backup_that_breaks_off_is_none(filled: Place, backups: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, *_: object, **__: object) -> None:
        raise StorageUnavailable(path)

    with closing(index_of(filled)) as index:
        with monkeypatch.context() as patched:
            patched.setattr(backups._store, "put", full)
            with pytest.raises(StorageUnavailable):
                backups.make(index, keep=3)
        assert backups.all() == []
        with pytest.raises(NotFound):
            backups.restore(index)
