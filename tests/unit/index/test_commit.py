"""Commits against a real PostgreSQL and a real lake."""

import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pacs_core.errors import IndexUnavailable, NotIndexable
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.keys import held_object
from pacs_core.index.lake import LakeReader
from pacs_core.index.postgres import Database
from pacs_core.index.reader import LakeIndexReader
from pacs_core.model import UID, Header, Level, Origin, Query
from tests.support.catalog import Catalogs
from tests.support.records import RECEIVED, record
from tests.unit.index.conftest import Place, kill_postgres
from tests.unit.index.crashing_committer import batch, final_paths, first

ROOT = Path(__file__).parents[3]


def rows(place: Place, sql: str) -> list[tuple[object, ...]]:
    lake = LakeReader(place.catalog_url, place.data_path)
    try:
        return list(lake.rows(sql))
    finally:
        lake.close()


def test_a_batch_becomes_one_row_per_entity(place: Place, writer: LakeIndexWriter, reader: LakeIndexReader) -> None:
    batch = [record(number, series=series) for series in ("1.1.1", "1.1.2") for number in (1, 2)]
    assert writer.commit(batch).inserted == 4
    counts = reader.counts()
    assert (counts.patients, counts.studies, counts.series, counts.instances) == (1, 1, 2, 4)
    assert counts.tiers["hot"].bytes == 4000


def test_an_empty_batch_needs_no_database() -> None:
    assert LakeIndexWriter("postgresql://nobody@127.0.0.1:1/none", "/nowhere").commit([]).inserted == 0


def test_repeating_a_batch_changes_nothing(place: Place, writer: LakeIndexWriter) -> None:
    batch = [record(number) for number in range(5)]
    writer.commit(batch)
    again = LakeIndexWriter(place.catalog_url, place.data_path)
    result = again.commit([*batch[2:], record(9)])
    again.close()
    assert (result.inserted, result.repeated) == (1, 3)
    assert rows(place, "SELECT count(*), count(DISTINCT SOPInstanceUID) FROM lake.instance") == [(6, 6)]
    assert rows(place, "SELECT count(*) FROM lake.study") == [(1,)]


def test_a_key_whose_row_never_came_gets_its_row_when_the_batch_is_repeated(place: Place, writer: LakeIndexWriter) -> None:
    writer.commit([record(1)])
    writer._lake.execute("DELETE FROM lake.instance")  # type: ignore[union-attr]
    assert writer.commit([record(1)]).repeated == 1
    assert rows(place, "SELECT count(*) FROM lake.instance") == [(1,)]


def test_conflicting_objects_are_reported_and_not_indexed(place: Place, writer: LakeIndexWriter) -> None:
    writer.commit([record(1)])
    other = record(1, path="elsewhere.dcm", sha256="e" * 64)
    assert writer.commit([other]).conflicting == (other,)
    assert rows(place, "SELECT path FROM lake.instance") == [(record(1).path,)]


def test_a_replacement_gives_one_row_and_the_old_object_each_time_it_is_repeated(place: Place, writer: LakeIndexWriter) -> None:
    writer.commit([record(1)])
    newer = record(1, path="new.dcm", sha256="e" * 64, replaces=True, origin=Origin("A", "PACS", RECEIVED + timedelta(minutes=1)))
    for attempt in range(2):
        result = writer.commit([newer])
        assert result.superseded == (held_object(record(1)).object,)
        assert result.repeated == attempt
    assert rows(place, "SELECT path FROM lake.instance") == [("new.dcm",)]


def test_the_first_form_of_a_study_is_kept(place: Place, writer: LakeIndexWriter) -> None:
    writer.commit([record(1, header={"StudyDescription": "first"})])
    fresh = LakeIndexWriter(place.catalog_url, place.data_path)
    fresh.commit([record(2, header={"StudyDescription": "second"})])
    fresh.close()
    assert rows(place, "SELECT StudyDescription FROM lake.study") == [("first",)]


def test_one_series_uid_in_two_studies_is_two_series(place: Place, writer: LakeIndexWriter, reader: LakeIndexReader) -> None:
    writer.commit([record(1, study="1.1", series="9.9"), record(2, study="1.2", series="9.9")])
    found = reader.find(Query(Level.IMAGE, {"StudyInstanceUID": "1.2"}))
    assert [header["SOPInstanceUID"] for header in found] == ["9.9.2"]


def test_patients_without_an_identifier_are_joined_to_their_studies(writer: LakeIndexWriter, reader: LakeIndexReader) -> None:
    writer.commit([record(1, header={"PatientID": ""})])
    assert len(list(reader.find(Query(Level.STUDY, {})))) == 1


def test_text_that_no_database_can_hold_does_not_stop_the_commit(writer: LakeIndexWriter, reader: LakeIndexReader) -> None:
    odd: Header = {
        "PatientName": "A\0B",
        "StudyDescription": "half \ud800 pair",
        "PatientWeight": "1e999",
        "SeriesNumber": "9" * 30,
        "StudyDate": "00000000",
    }
    writer.commit([record(1, header=odd, SOPInstanceUID=UID("1.2\0.3"))])
    (found,) = reader.find(Query(Level.SERIES, {}))
    assert found["StudyDescription"] == "half ? pair"
    assert found["SeriesNumber"] == "9" * 30


def test_large_and_small_commits_are_flushed_and_merged_into_the_same_rows(place: Place, writer: LakeIndexWriter) -> None:
    for turn in range(40):
        writer.commit([record(turn * 60 + number) for number in range(60 if turn % 8 else 20)])
    writer.flush()
    assert rows(place, "SELECT count(*), count(DISTINCT SOPInstanceUID) FROM lake.instance") == [(2200, 2200)]
    assert rows(place, "SELECT count(*) FROM ducklake_list_files('lake', 'instance')")[0][0] < 20  # type: ignore[operator]


def test_verification_is_remembered_per_instance(place: Place, writer: LakeIndexWriter) -> None:
    writer.commit([record(1), record(2)])
    when = datetime(2025, 1, 1, tzinfo=UTC)
    replaced_meanwhile = held_object(record(2, sha256="e" * 64)).object
    writer.mark_verified([held_object(record(1)).object, held_object(record(9)).object, replaced_meanwhile], when)
    found = rows(place, "SELECT SOPInstanceUID, epoch(verified_at) FROM lake.instance ORDER BY 1")
    assert found == [("1.1.1.1", when.timestamp()), ("1.1.1.2", None)]


def test_committers_that_work_at_once_index_everything_once(place: Place) -> None:
    writers = [LakeIndexWriter(place.catalog_url, place.data_path) for _ in range(3)]
    batches = [[record(number) for number in range(start, start + 8)] for start in range(0, 24, 4)]
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda job: writers[job % 3].commit(batches[job // 3]), range(18)))
    finally:
        for writer in writers:
            writer.close()
    assert rows(place, "SELECT count(*), count(DISTINCT SOPInstanceUID) FROM lake.instance") == [(28, 28)]
    assert rows(place, "SELECT count(*) FROM lake.patient") == [(1,)]


def test_a_value_that_the_index_cannot_hold_is_told_from_an_outage(writer: LakeIndexWriter, reader: LakeIndexReader) -> None:
    writer.commit([record(1)])
    with pytest.raises(NotIndexable) as raised:
        writer.commit([record(2, size=2**70)])
    assert not raised.value.retryable
    writer.commit([record(5)])
    assert reader.counts().instances == 2


def test_nothing_that_a_statement_quotes_is_shown_with_the_error(writer: LakeIndexWriter) -> None:
    name = str(record(1).header["PatientName"])
    with pytest.raises(IndexUnavailable) as raised, writer.committing() as (_, lake):
        lake.execute(f"INSERT INTO lake.nowhere VALUES ('{name}')")
    assert name not in "".join(traceback.format_exception(raised.value))


def test_what_is_known_to_be_indexed_does_not_outlive_the_connection(place: Place, writer: LakeIndexWriter) -> None:
    writer.commit([record(1)])
    writer._lake.execute("DELETE FROM lake.study")  # type: ignore[union-attr] # as if an older index were restored
    writer.close()
    writer.commit([record(2)])
    assert rows(place, "SELECT count(*) FROM lake.study") == [(1,)]


def test_the_lake_commits_durably_whatever_the_server_is_set_to(place: Place) -> None:
    database = Database(place.catalog_url)
    with database.transaction() as session:
        name = session.run("SELECT current_database()")[0][0]
        session.run(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    database.close()
    fresh = LakeIndexWriter(place.catalog_url, place.data_path)
    with fresh.committing() as (session, lake):
        assert session.run("SHOW synchronous_commit") == [["on"]]
        shown = "SELECT * FROM postgres_query('__ducklake_metadata_lake', 'SELECT current_setting(''synchronous_commit'') AS value')"
        assert lake.execute(shown).fetchall() == [("on",)]
    fresh.close()


def take_over(place: Place) -> None:
    """What another committer does before it begins."""
    database = Database(place.catalog_url)
    with database.transaction() as session:
        session.run("UPDATE pacs.committer SET holder = 'pacs-commit someone else'")
    database.close()


def test_a_committer_that_lost_the_lock_unnoticed_cannot_write_to_the_lake(place: Place, writer: LakeIndexWriter) -> None:
    writer.commit([record(1)])
    stranger = LakeIndexWriter(place.catalog_url, place.data_path)
    stranger.commit([record(2)])
    with pytest.raises(IndexUnavailable), stranger.committing() as (_, lake):  # noqa: PT012 the fence acts at the delete's commit
        take_over(place)
        lake.execute("DELETE FROM lake.instance")
    stranger.close()
    assert rows(place, "SELECT count(*) FROM lake.instance") == [(2,)]


def test_postgres_killed_between_commits_costs_one_retryable_error(new_place: Callable[[], Place], catalogs: Catalogs) -> None:
    place = new_place()
    writer = LakeIndexWriter(place.catalog_url, place.data_path)
    reader = LakeIndexReader(LakeReader(place.catalog_url, place.data_path), Database(place.catalog_url))
    writer.commit([record(1)])
    assert reader.counts().instances == 1
    kill_postgres(catalogs)
    with pytest.raises(IndexUnavailable):
        writer.commit([record(2)])
    with pytest.raises(IndexUnavailable):
        reader.counts()
    catalogs.start()
    writer.commit([record(2)])
    assert reader.counts().instances == 2
    kill_postgres(catalogs)
    catalogs.start()
    assert reader.counts().instances == 2  # without anybody noticing
    writer.close()
    reader.close()


@pytest.mark.timeout(170)
def test_a_committer_killed_at_any_step_leaves_nothing_undone_or_done_twice(place: Place) -> None:
    """Each child dies at one step more of its commit: of new instances, a repeated one and a replacement."""
    output = subprocess.run(
        [sys.executable, "-m", "tests.unit.index.crashing_committer", place.catalog_url, place.data_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=160,
        check=True,
    ).stdout
    deaths = int(output.splitlines()[-1])
    assert deaths > 15
    writer = LakeIndexWriter(place.catalog_url, place.data_path)
    for step in range(deaths + 1):
        result = writer.commit(batch(step))
        assert not result.conflicting
        assert {gone.path for gone in result.superseded} == {first(step)[0].path}
    writer.close()
    expected = sorted(final_paths(deaths + 1))
    assert rows(place, "SELECT path FROM lake.instance ORDER BY path") == [(path,) for path in expected]
    assert rows(place, "SELECT count(*), count(DISTINCT StudyInstanceUID) FROM lake.study") == [(deaths + 1,) * 2]


@pytest.mark.parametrize("uid", ["null", "NULL", 'a"b', "a\\b", "{a,b}"])
def test_a_uid_that_looks_like_something_else_to_postgres_is_a_uid(place: Place, reader: LakeIndexReader, uid: str) -> None:
    for number in (1, 2):  # two processes, of which the second knows nothing of what the first has done
        with closing(LakeIndexWriter(place.catalog_url, place.data_path)) as writer:
            assert writer.commit([record(number, study=uid, series="1.1", SOPInstanceUID=UID(f"{uid}{number}"))]).inserted == 1
    assert len(list(reader.find(Query(Level.SERIES, {})))) == 1
    assert len(reader.locate(Query(Level.SERIES, {"SeriesInstanceUID": "1.1"}))) == 2
    with closing(LakeIndexWriter(place.catalog_url, place.data_path)) as writer:
        assert writer.commit([record(1, study=uid, series="1.1", SOPInstanceUID=UID(f"{uid}1"))]).repeated == 1
