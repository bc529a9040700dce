"""The life of a study: in on a disk, to S3, to Azure, and back, moved by the flow; a standard client finds and gets it from everywhere."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import dcmtk
from tests.support.archive import Archive, running_archive
from tests.support.clouds import Azurite, S3Server
from tests.support.part10 import assert_identical
from tests.support.processes import assert_succeeded
from tests.support.synthetic import Study

RULES = """
[[migrations]]
name = "mr-to-cold"
source = "warm"
target = "cold"
modalities = ["MR"]

[[retentions]]
name = "old-xc"
modalities = ["XC"]
require_copy = false
"""


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, Azurite]]:
    root = tmp_path_factory.mktemp("clouds")
    s3, azure = S3Server(root / "s3"), Azurite(root / "azure")
    s3.start()
    azure.start()
    yield s3, azure
    azure.stop()
    s3.stop()


@pytest.fixture(scope="module")
def tiered(clouds: tuple[S3Server, Azurite], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    s3, azure = clouds
    home = tmp_path_factory.mktemp("tiered") / "home"
    home.mkdir()
    (home / "pacs.toml").write_text(
        f'[tiers.warm]\nurl = "{s3.bucket()}"\nendpoint = "{s3.endpoint}"\n'
        f'[tiers.cold]\nurl = "{azure.bucket()}"\nendpoint = "{azure.endpoint}"\n{RULES}'
    )
    with running_archive(home, settings={**s3.environment, **azure.environment}) as archive:
        archive.pause_schedules()  # the rules would be followed at whatever time of the day it is
        yield archive


def sent_study(archive: Archive, folder: Path, study: Study) -> list[Path]:
    paths = study.write(folder / "sent")
    assert_succeeded(dcmtk.storescu(archive.scp, paths))
    return paths


def run_flow(archive: Archive, name: str, **parameters: object) -> str:
    """What `pacs flow run` tells; it must complete."""
    options = [text for key, value in parameters.items() for text in ("--param", f"{key}={json.dumps(value)}")]
    return assert_succeeded(archive.run_pacs("flow", "run", name, *options, timeout=240)).stdout


def tiers_of(archive: Archive, study: Study) -> dict[str, int]:
    rows = archive.sql(f"SELECT tier, count(*) AS n FROM instance WHERE StudyInstanceUID = '{study.uid}' GROUP BY tier")
    return {row["tier"]: row["n"] for row in rows}


def assert_found_and_got(archive: Archive, study: Study, sent: Sequence[Path], folder: Path) -> None:
    keys = {"StudyInstanceUID": study.uid, "PatientID": ""}
    (folder / "found").mkdir(parents=True)
    (found,) = dcmtk.findscu(archive.scp, folder / "found", "study", "STUDY", keys)
    assert found.PatientID == study.patient_id
    got = dcmtk.getscu(archive.scp, folder / "got", "study", "STUDY", {"StudyInstanceUID": study.uid})
    assert got.status == 0x0000
    assert_identical(sent, (folder / "got").iterdir())


def test_a_study_is_found_and_retrieved_bit_exact_from_each_tier_and_comes_back(tiered: Archive, tmp_path: Path) -> None:
    study = Study("MR", instances=12)
    sent = sent_study(tiered, tmp_path, study)
    before = tiered.sql(f"SELECT SOPInstanceUID, path, size, sha256 FROM instance WHERE StudyInstanceUID = '{study.uid}' ORDER BY ALL")
    assert_found_and_got(tiered, study, sent, tmp_path / "hot")
    for tier in ("warm", "cold", "hot"):
        told = run_flow(tiered, "migrate", study=study.uid, target=tier)
        assert "12 instances of 1 studies done" in told
        assert tiers_of(tiered, study) == {tier: 12}
        assert_found_and_got(tiered, study, sent, tmp_path / f"{tier}-again")
        assert bool(list((tiered.home / "hot").glob(f"{study.uid}/*/*.dcm"))) is (tier == "hot")
    after = tiered.sql(f"SELECT SOPInstanceUID, path, size, sha256 FROM instance WHERE StudyInstanceUID = '{study.uid}' ORDER BY ALL")
    assert after == before
    events = tiered.sql(
        "SELECT from_tier, to_tier, instances, flow_run.flow FROM study_event JOIN flow_run USING (run_id)"
        f" WHERE StudyInstanceUID = '{study.uid}' ORDER BY number"
    )
    assert [(each["from_tier"], each["to_tier"]) for each in events] == [("hot", "warm"), ("warm", "cold"), ("cold", "hot")]


def test_rules_are_rehearsed_and_the_plan_is_followed(tiered: Archive, tmp_path: Path) -> None:
    study = Study("MR", instances=3)
    sent_study(tiered, tmp_path, study)
    run_flow(tiered, "migrate", study=study.uid, target="warm")
    told = run_flow(tiered, "migrate", rule="mr-to-cold", dry_run=True)
    assert tiers_of(tiered, study) == {"warm": 3}
    plan = told.partition("run with plan=")[2].split()[0]
    run_flow(tiered, "migrate", plan=plan)
    assert tiers_of(tiered, study) == {"cold": 3}
    (event,) = tiered.sql(f"SELECT policy FROM study_event WHERE StudyInstanceUID = '{study.uid}' AND to_tier = 'cold'")
    assert event["policy"] == "mr-to-cold"


def test_cleanup_removes_by_rule_keeps_what_is_on_hold_and_can_be_undone(tiered: Archive, tmp_path: Path) -> None:
    kept, removed = (Study("MR", instances=2, attributes={"Modality": "XC"}) for _ in range(2))
    sent_study(tiered, tmp_path / "kept", kept)
    sent = sent_study(tiered, tmp_path / "removed", removed)
    assert_succeeded(tiered.run_pacs("hold", "add", kept.uid, "--reason", "research"))
    run_flow(tiered, "cleanup")
    assert (tiers_of(tiered, kept), tiers_of(tiered, removed)) == ({"hot": 2}, {})
    (tmp_path / "none").mkdir()
    assert not dcmtk.findscu(tiered.scp, tmp_path / "none", "study", "STUDY", {"StudyInstanceUID": removed.uid})
    run_flow(tiered, "undo-cleanup", study=removed.uid)
    assert tiers_of(tiered, removed) == {"hot": 2}
    assert_found_and_got(tiered, removed, sent, tmp_path / "back")
    actions = tiered.sql(f"SELECT action FROM study_event WHERE StudyInstanceUID = '{removed.uid}' ORDER BY number")
    assert [each["action"] for each in actions] == ["removed", "restored"]


def test_an_archived_study_comes_back_after_it_was_removed(tiered: Archive, tmp_path: Path) -> None:
    study = Study("MR", instances=3, attributes={"Modality": "XC"})
    sent = sent_study(tiered, tmp_path, study)
    run_flow(tiered, "archive", study=study.uid, destination="cold", form="zip")
    (copies,) = tiered.sql(f"SELECT count(*) AS n, min(state) AS state FROM instance_copy WHERE StudyInstanceUID = '{study.uid}'")
    assert copies == {"n": 3, "state": "held"}
    run_flow(tiered, "cleanup")
    assert tiers_of(tiered, study) == {}
    run_flow(tiered, "restore-archived", study=study.uid)
    assert tiers_of(tiered, study) == {"hot": 3}
    assert_found_and_got(tiered, study, sent, tmp_path / "back")


def test_a_study_that_is_not_held_is_no_success(tiered: Archive) -> None:
    done = tiered.run_pacs("flow", "run", "migrate", "--param", 'study="1.2.3"', "--param", 'target="warm"', timeout=200)
    assert done.returncode == 1
    assert "nothing of study 1.2.3" in done.stdout
