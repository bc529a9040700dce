"""A user's own flow, by the commands of docs/custom-flows.md: copied, deployed, run, scheduled, without touching our code."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.archive import Archive
from tests.support.dcmtk import storescu
from tests.support.processes import assert_succeeded, run
from tests.support.synthetic import Study

pytestmark = pytest.mark.timeout(300)

TEMPLATE = Path(__file__).resolve().parents[3] / "deployments" / "custom"


def flows(archive: Archive) -> dict[str, str]:
    listed = assert_succeeded(archive.run_pacs("flow", "list", "--format", "json"))
    return {row["flow"]: f"{row['schedule']}, {row['schedule is']}" for row in json.loads(listed.stdout)}


def test_a_flow_of_a_users_own_is_deployed_run_and_scheduled_as_ours(archive: Archive, tmp_path: Path) -> None:
    study = Study("MR", series=2, instances=3)
    assert_succeeded(storescu(archive.scp, study.write(tmp_path / "images")))
    mine = shutil.copytree(TEMPLATE, tmp_path / "mine")
    env = {**archive.env, "PREFECT_API_URL": archive.prefect_api_url, "PREFECT_HOME": str(archive.home / "prefect")}
    command: list[str | Path] = [Path(sys.executable).with_name("prefect"), "--no-prompt", "deploy", "--all"]
    assert_succeeded(run(command, env=env, cwd=mine))
    assert flows(archive)["study_report"] == "0 6 * * * UTC, active"

    reports = tmp_path / "reports"
    done = archive.run_pacs("flow", "run", "study_report", "-P", "days=10", "-P", f"directory={reports}", timeout=200)
    assert_succeeded(done)
    with (reports / "study-report.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["modality"] == "MR"]
    assert sum(int(row["instances"]) for row in found) >= 6
    assert {row["modality"] for row in json.loads(str(archive.artifact("study-report")["data"]))} >= {"MR"}
    (newest,) = archive.sql("SELECT state, parameters, summary FROM flow_run WHERE flow = 'study_report' ORDER BY started_at DESC LIMIT 1")
    assert newest["state"] == "completed"
    assert json.loads(newest["parameters"])["days"] == 10
    assert json.loads(newest["summary"])["instances"] >= 6

    planned = assert_succeeded(archive.run_pacs("flow", "run", "study_report", "-P", "dry_run=true", timeout=200))
    assert "30 days would be counted in 5 shards" in planned.stdout
    refused = archive.run_pacs("flow", "run", "study_report", "-P", "days=0")
    assert refused.returncode == 1
    assert "days" in refused.stdout

    assert_succeeded(archive.run_pacs("flow", "pause", "study_report"))
    assert flows(archive)["study_report"].endswith("paused")
    assert_succeeded(archive.run_pacs("flow", "resume", "study_report"))
    assert_succeeded(archive.run_pacs("flow", "schedule", "study_report", "--once", "2100-01-01T00:00"))
    assert flows(archive)["study_report"] == "once at 2100-01-01 00:00:00 UTC, active"
    history = assert_succeeded(archive.run_pacs("flow", "history", "study_report", "--format", "json"))
    assert len(json.loads(history.stdout)) == 2
