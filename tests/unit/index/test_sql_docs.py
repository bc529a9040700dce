"""Every statement of docs/sql.md works as it is written there."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import duckdb
import pytest

from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.lake import Engine, open_duckdb
from pacs_core.index.locations import record_event
from pacs_core.index.operational import FlowRuns
from pacs_core.index.performed_steps import PerformedSteps
from pacs_core.index.postgres import Database
from pacs_core.index.removals import LakeRemovals
from pacs_core.index.sql import SQLSession
from pacs_core.model import Change, Header, Origin, RemovedState
from pacs_core.ports.modality import PerformedSeries, PerformedStep, RequestedStep
from tests.support.records import record
from tests.unit.index.conftest import Place

DOCUMENT = (Path(__file__).parents[3] / "docs" / "sql.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL)
ATTACHMENTS = re.findall(r"```sql attach\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture(scope="module")
def archive(new_place: Callable[[], Place]) -> Place:
    """An index that has an answer to each query."""
    place = new_place()
    now = datetime.now(UTC)
    header: Header = {"PatientName": "Müller^Jürgen", "RequestAttributesSequence": [{"RequestedProcedureID": "RP1"}]}
    _remove_one(place, now)
    writer = LakeIndexWriter(place.catalog_url, place.data_path)
    writer.commit([record(number, header=header, origin=Origin("MODALITY", "PACS", now)) for number in (1, 2, 5)])
    writer.close()
    database = Database(place.catalog_url)
    runs = FlowRuns(database)
    runs.start("run-1", "verify", started_at=now - timedelta(seconds=1), parameters={"tier": "hot"})
    runs.finish("run-1", state="completed", ended_at=now + timedelta(seconds=1), summary={"verified": 3})
    moved = [record(1).object]
    change = Change(run="run-1", flow="migrate", action="migrated", policy="quiet-to-warm", at=now)
    with database.transaction() as session:
        record_event(session, moved, change, target="warm")
    PerformedSteps(database).create("1.7", "CT1", _step(now), [])
    database.close()
    return place


def _step(now: datetime) -> PerformedStep:
    """One that claims more than has come."""
    series = PerformedSeries("1.9.7", "Thorax", "", "", "", "", 5)
    local = now.replace(tzinfo=None)
    return PerformedStep("COMPLETED", "P1", "CT1", "CT", "1", local, local, {}, (RequestedStep("1.9", "", ""),), (series,))


def _remove_one(place: Place, now: datetime) -> None:
    writer = LakeIndexWriter(place.catalog_url, place.data_path)
    removals = LakeRemovals(place.catalog_url, writer)
    change = Change(run="run-1", flow="cleanup", action="removed", policy="ten-years", at=now)
    gone = [record(9, study="1.9", series="1.9.1")]
    writer.commit(gone)
    removals.take_out([each.object for each in gone], change, now + timedelta(days=7))
    removals.forget_rows(removals.all(RemovedState.LEAVING), change)
    removals.quarantined(removals.all(RemovedState.LEAVING))
    removals.close()


def test_every_query_is_found() -> None:
    assert len(re.findall(r"^\d+\. ", DOCUMENT, re.MULTILINE)) == 14
    assert len(QUERIES) == 17


@pytest.mark.parametrize("query", [query for query in QUERIES if "AT (TIMESTAMP" not in query])
def test_a_query_runs_in_a_read_only_session_and_has_an_answer(archive: Place, query: str) -> None:
    with SQLSession(archive.catalog_url, archive.data_path) as session:
        assert list(session.run(query).rows())


def test_the_past_can_be_asked_for(archive: Place) -> None:
    (query,) = [query for query in QUERIES if "AT (TIMESTAMP" in query]
    with SQLSession(archive.catalog_url, archive.data_path) as session:
        snapshots = session.run("SELECT snapshot_time FROM ducklake_snapshots('lake') ORDER BY snapshot_id DESC LIMIT 2").table()
        now, before = snapshots["snapshot_time"].to_pylist()
        for moment, held in ((now, 3), (before, 0)):
            assert list(session.run(query.replace("now() - INTERVAL 1 SECOND", f"TIMESTAMPTZ '{moment}'")).rows()) == [(held,)]


@pytest.mark.parametrize("statements", ATTACHMENTS)
def test_a_plain_duckdb_attaches_while_the_archive_runs(archive: Place, statements: str) -> None:
    socket_directory = parse_qs(urlsplit(archive.catalog_url).query)["host"][0]
    here = statements.replace("/srv/pacs/run/pg", socket_directory).replace("/srv/pacs/index", archive.data_path)
    here = here.replace("dbname=pacs", f"dbname={urlsplit(archive.catalog_url).path.strip('/')}")
    plain = open_duckdb(Engine())  # a DuckDB with its extensions, and nothing of ours attached
    try:
        assert plain.execute(here).fetchall()
        with pytest.raises(duckdb.Error):
            plain.execute("DELETE FROM lake.instance" if "AS lake" in here else "DELETE FROM ops.flow_run")
    finally:
        plain.close()
