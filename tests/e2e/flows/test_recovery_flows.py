"""The flows that look after the index, back it up and make it anew, on the running archive."""

from pathlib import Path

import pytest

from tests.support.archive import Archive
from tests.support.dcmtk import storescu
from tests.support.processes import assert_succeeded
from tests.support.synthetic import Study
from tests.support.waiting import eventually


@pytest.mark.timeout(400)
def test_the_flows_do_it_on_the_running_archive(archive: Archive, tmp_path: Path) -> None:
    study = Study("MR", series=2, instances=3)
    assert_succeeded(storescu(archive.scp, study.write(tmp_path)))
    held = f"SELECT count(*) AS n FROM instance WHERE StudyInstanceUID = '{study.uid}'"
    eventually(lambda: archive.sql(held) == [{"n": 6}], what="the study in the index")

    def run(flow: str, *parameters: str) -> str:
        arguments = [argument for parameter in parameters for argument in ("--param", parameter)]
        return assert_succeeded(archive.run_pacs("flow", "run", flow, *arguments, timeout=200)).stdout

    assert "dry run:" in run("maintain", "dry_run=true")
    assert "analyze:" in run("maintain")
    assert "rows" in run("backup", "keep=3")
    assert "has" in run("restore", "dry_run=true")
    assert "would be read" in run("rebuild", "dry_run=true")
    done = archive.run_pacs("flow", "run", "rebuild", "--param", "into_existing=true", timeout=200)  # others' tests damage objects
    assert "0 instances were indexed" in done.stdout, done.stdout
    refused = archive.run_pacs("flow", "run", "restore", timeout=200)
    assert refused.returncode == 1
    assert "not empty" in refused.stdout
    assert archive.sql(held) == [{"n": 6}]
    states = archive.sql("SELECT DISTINCT flow, state FROM flow_run WHERE flow IN ('maintain', 'backup') ORDER BY ALL")
    assert {"flow": "backup", "state": "completed"} in states
