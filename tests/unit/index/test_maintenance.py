"""The upkeep that the flow `maintain` does: rows stay, history goes as far as nobody needs it."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.contents import digests
from pacs_core.index.keys import held_object
from pacs_core.index.lake import LakeReader
from pacs_core.index.maintenance import Step, Upkeep
from pacs_core.index.postgres import Database
from tests.support.records import record
from tests.unit.index.conftest import Place

DAY = timedelta(days=1)


def everything(place: Place) -> Any:
    with closing(LakeReader(place.catalog_url, place.data_path)) as lake:
        return digests(lake, everything=True)


def run_all(upkeep: Upkeep) -> dict[str, int]:
    return {done.step.value: done.count for done in map(upkeep.do, Step)}


def fill(writer: LakeIndexWriter) -> None:
    for turn in range(4):
        writer.commit([record(turn * 60 + number) for number in range(60)])
    writer.commit([record(9000 + number) for number in range(20)])
    writer.mark_verified([held_object(record(number)).object for number in range(40)], datetime.now(UTC))


def age(database: Database, days: float) -> None:
    """Make every snapshot, and all that goes with it, older."""
    with database.transaction() as session:
        session.run(
            "UPDATE lake.ducklake_snapshot SET snapshot_time = snapshot_time - make_interval(secs => :seconds)", seconds=days * 86400
        )


def snapshots(database: Database) -> list[tuple[int, datetime]]:
    with database.transaction() as session:
        return [(number, time) for number, time in session.run("SELECT snapshot_id, snapshot_time FROM lake.ducklake_snapshot ORDER BY 1")]


def test_rows_stay_and_files_become_few(place: Place, writer: LakeIndexWriter, database: Database) -> None:
    fill(writer)
    before = everything(place)
    writer.close()
    age(database, 40)
    upkeep = Upkeep(writer, expire_before=datetime.now(UTC) - 30 * DAY)
    planned = {step.step.value: step.count for step in upkeep.planned()}
    assert (planned["flush"] > 0, planned["expire"] > 0, planned["merge"] > 1) == (True, True, True)
    assert everything(place) == before
    kept, files = snapshots(database)[-1][0], len(list(Path(place.data_path).rglob("*.parquet")))
    done = run_all(upkeep)
    assert everything(place) == before
    assert (done["flush"], done["expire"] >= planned["expire"], done["analyze"] > 10) == (planned["flush"], True, True)
    assert done["merge"] > 0
    assert snapshots(database)[0][0] == kept  # what was valid 30 days ago
    assert upkeep.planned()[0].count == 0
    assert files
    assert writer.commit([record(1)]).repeated == 1


def test_a_dry_run_changes_nothing(place: Place, writer: LakeIndexWriter, database: Database) -> None:
    fill(writer)
    age(database, 40)
    before = snapshots(database), sorted(Path(place.data_path).rglob("*"))
    Upkeep(writer, expire_before=datetime.now(UTC)).planned()
    assert (snapshots(database), sorted(Path(place.data_path).rglob("*"))) == before


@pytest.mark.parametrize(("until", "holds"), [(None, True), (DAY, True), (-DAY, False)])
def test_no_snapshot_is_expired_past_an_active_hold(
    place: Place, writer: LakeIndexWriter, database: Database, until: timedelta | None, holds: bool
) -> None:
    writer.commit([record(1)])
    writer.close()
    age(database, 10)
    writer.commit([record(2, study="1.2", series="1.2.1")])
    writer.close()
    age(database, 10)
    valid = snapshots(database)[-1][0]
    now = datetime.now(UTC)
    with database.transaction() as session:
        session.run(
            "INSERT INTO pacs.hold VALUES ('1.2', 'study', '', :placed_at, :until)", placed_at=now - 9 * DAY, until=until and now + until
        )
    writer.commit([record(3)])
    upkeep = Upkeep(writer, expire_before=now - DAY)
    upkeep.expire()
    left = [number for number, _ in snapshots(database)]
    assert valid in left
    assert left[0] == valid
    writer.commit([record(4)])
    upkeep = Upkeep(writer, expire_before=datetime.now(UTC))
    upkeep.expire()
    assert (valid in [number for number, _ in snapshots(database)]) == holds
    with closing(LakeReader(place.catalog_url, place.data_path)) as lake:
        assert list(lake.rows("SELECT count(*) FROM lake.instance")) == [(4,)]
        if holds:
            moment = f"SELECT count(*) FROM lake.instance AT (TIMESTAMP => TIMESTAMPTZ '{(now - 9 * DAY).isoformat()}')"
            assert list(lake.rows(moment)) == [(2,)]
