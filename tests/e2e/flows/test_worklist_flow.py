"""The flow that removes worklist items whose time is over."""

from datetime import datetime, timedelta

from tests.support.archive import Archive
from tests.support.processes import assert_succeeded


def schedule(archive: Archive, patient: str, start: datetime) -> None:
    add = ("worklist", "add", "--patient-id", patient, "--name", "A^B", "--station", "CT1", "--modality", "CT")
    assert_succeeded(archive.run_pacs(*add, "--start", f"{start:%Y-%m-%dT%H:%M:%S}"))


def test_expired_items_leave_the_worklist_and_a_dry_run_only_says_so(archive: Archive) -> None:
    now = datetime.now()  # noqa: DTZ005 local time, as schedules are
    schedule(archive, "EXPIRED", now - timedelta(days=8))
    schedule(archive, "RECENT", now - timedelta(days=6))
    kept = "SELECT PatientID FROM worklist_item WHERE PatientID IN ('EXPIRED', 'RECENT') ORDER BY 1"
    done = assert_succeeded(archive.run_pacs("flow", "run", "worklist-cleanup", "-P", "dry_run=true"))
    assert "dry run: 1 items would be removed" in done.stdout
    assert len(archive.sql(kept)) == 2
    done = assert_succeeded(archive.run_pacs("flow", "run", "worklist-cleanup"))
    assert "1 items removed" in done.stdout
    assert archive.sql(kept) == [{"PatientID": "RECENT"}]
    assert archive.sql("SELECT state FROM flow_run WHERE flow = 'worklist-cleanup' ORDER BY started_at") == [
        {"state": "planned"},
        {"state": "completed"},
    ]
