"""The `verify` flow on the running archive: started in every way, finding what is damaged, telling it everywhere."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.archive import Archive
from tests.support.dcmtk import storescu
from tests.support.processes import assert_succeeded, run
from tests.support.synthetic import Study
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(300)


def stored_study(archive: Archive, directory: Path) -> Study:
    study = Study("MR", series=2, instances=3)
    assert_succeeded(storescu(archive.scp, study.write(directory)))
    eventually(lambda: len(instances(archive, study)) == 6, within=30, what="the study in the index")
    return study


def instances(archive: Archive, study: Study) -> list[dict[str, Any]]:
    return archive.sql(f"SELECT SOPInstanceUID, path, verified_at FROM instance WHERE StudyInstanceUID = '{study.uid}' ORDER BY path")


def verify(archive: Archive, study: Study) -> "tuple[int, str]":
    done = archive.run_pacs("flow", "run", "verify", "--param", "scope=study", "--param", f'study="{study.uid}"', timeout=200)
    return done.returncode, done.stdout


def test_an_intact_study_is_verified_and_that_is_remembered(archive: Archive, tmp_path: Path) -> None:
    study = stored_study(archive, tmp_path)
    assert {row["verified_at"] for row in instances(archive, study)} == {None}
    status, output = verify(archive, study)
    assert (status, "6 objects are intact" in output) == (0, True), output
    assert None not in {row["verified_at"] for row in instances(archive, study)}
    (newest,) = archive.sql("SELECT flow, state, summary FROM flow_run WHERE flow = 'verify' ORDER BY started_at DESC LIMIT 1")
    assert (newest["flow"], newest["state"]) == ("verify", "completed")
    assert json.loads(newest["summary"])["instances"] == 6


def test_damage_fails_the_run_and_is_told_everywhere(archive: Archive, tmp_path: Path) -> None:
    study = stored_study(archive, tmp_path)
    corrupt, missing, *_ = rows = instances(archive, study)
    hot = archive.home / "hot"
    (hot / corrupt["path"]).chmod(0o600)
    with (hot / corrupt["path"]).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    content = (hot / missing["path"]).read_bytes()
    (hot / missing["path"]).unlink()

    status, output = verify(archive, study)
    assert status == 1
    assert "2 objects are damaged: 1 missing, 1 corrupt" in output
    table = json.loads(archive.artifact("verify-problems")["data"])
    assert {(row["damage"], row["SOPInstanceUID"]) for row in table} == {
        ("corrupt", corrupt["SOPInstanceUID"]),
        ("missing", missing["SOPInstanceUID"]),
    }
    assert "2 objects are damaged" in archive.artifact("verify-summary")["data"]
    after = {row["path"]: row["verified_at"] for row in instances(archive, study)}
    assert [after[row["path"]] is None for row in rows] == [True, True, False, False, False, False]
    (newest,) = archive.sql("SELECT state, summary FROM flow_run WHERE flow = 'verify' ORDER BY started_at DESC LIMIT 1")
    assert newest["state"] == "failed"
    assert json.loads(newest["summary"])["corrupt"] == 1

    (hot / missing["path"]).write_bytes(content)  # others use this archive too
    with (hot / corrupt["path"]).open("r+b") as file:
        file.seek(-1, 2)
        file.write(last)
    assert verify(archive, study)[0] == 0


def test_a_dry_run_reads_nothing(archive: Archive, tmp_path: Path) -> None:
    study = stored_study(archive, tmp_path)
    done = archive.run_pacs("flow", "run", "verify", "--param", "dry_run=true", timeout=200)
    assert done.returncode == 0
    assert "would be verified" in done.stdout
    assert {row["verified_at"] for row in instances(archive, study)} == {None}


def test_everything_and_both_directions_are_verified_by_default(archive: Archive, tmp_path: Path) -> None:
    study = stored_study(archive, tmp_path)
    done = archive.run_pacs("flow", "run", "verify", timeout=250)
    assert done.returncode == 0, done.stdout
    assert None not in {row["verified_at"] for row in instances(archive, study)}


def test_a_study_that_is_not_held_is_no_success(archive: Archive) -> None:
    status, output = verify(archive, Study())
    assert status == 1
    assert "nothing is held" in output


@pytest.mark.parametrize("parameter", ["scope=everything", "sample_percent=0", "sample_percent=101", 'study="../etc"'])
def test_parameters_out_of_bounds_are_refused_before_anything_runs(archive: Archive, parameter: str) -> None:
    done = archive.run_pacs("flow", "run", "verify", "--param", parameter)
    assert done.returncode == 1
    assert parameter.partition("=")[0] in done.stdout
    assert "Running" not in done.stdout


def test_prefects_own_command_starts_it_too(archive: Archive) -> None:
    env = {**archive.env, "PREFECT_API_URL": archive.prefect_api_url, "PREFECT_HOME": str(archive.home / "prefect")}
    command: list[str | Path] = [
        Path(sys.executable).with_name("prefect"),
        "deployment",
        "run",
        "verify/verify",
        "--param",
        "dry_run=true",
        "--watch",
    ]
    done = assert_succeeded(run(command, env=env, timeout=200))
    assert "Completed" in done.stdout


def test_it_is_listed_with_its_schedule_and_its_history(archive: Archive) -> None:
    listed = assert_succeeded(archive.run_pacs("flow", "list", "--format", "json"))
    (flow,) = (row for row in json.loads(listed.stdout) if row["flow"] == "verify")
    assert flow["schedule"] == "30 2 * * * UTC"
    history = assert_succeeded(archive.run_pacs("flow", "history", "verify", "--format", "json"))
    assert {row["state"] for row in json.loads(history.stdout)} & {"Completed", "Failed"}


def test_the_form_in_the_ui_explains_each_parameter(archive: Archive) -> None:
    (deployment,) = archive.prefect("deployments/filter", {"deployments": {"name": {"any_": ["verify"]}}})
    properties = deployment["parameter_openapi_schema"]["properties"]
    assert set(properties) == {"scope", "study", "sample_percent", "rolling_percent", "repair", "dry_run"}
    assert all(len(field["description"]) > 10 for field in properties.values())
