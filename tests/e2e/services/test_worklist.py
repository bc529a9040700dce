"""The modality worklist, asked by DCMTK's findscu and compared with DCMTK's own wlmscpfs on the same items (PS3.4 annex K)."""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, config
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.support import scu
from tests.support.archive import Listener
from tests.support.dcmtk import Scp, findscu
from tests.support.processes import assert_succeeded, daemon, free_ports
from tests.support.waiting import eventually

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
STEP = "ScheduledProcedureStepSequence[0]."
# What a modality asks for, each query with one matching key or a few.
RETURNED = {
    "PatientID": "",
    "PatientName": "",
    "AccessionNumber": "",
    "StudyInstanceUID": "",
    "RequestedProcedureID": "",
    STEP + "Modality": "",
    STEP + "ScheduledStationAETitle": "",
    STEP + "ScheduledProcedureStepStartDate": "",
    STEP + "ScheduledProcedureStepStartTime": "",
    STEP + "ScheduledProcedureStepID": "",
}
QUERIES: list[Mapping[str, str]] = [
    {},
    {STEP + "Modality": "CT"},
    {STEP + "Modality": "CT", STEP + "ScheduledStationAETitle": "STATION1"},
    {STEP + "ScheduledProcedureStepStartDate": "20261201"},
    {STEP + "ScheduledProcedureStepStartDate": "20261201-20261202"},
    {STEP + "ScheduledProcedureStepStartDate": "20261203-"},
    {STEP + "ScheduledProcedureStepStartDate": "20261201", STEP + "ScheduledProcedureStepStartTime": "0900-1200"},
    {STEP + "ScheduledProcedureStepStartDate": "20261201-20261202", STEP + "ScheduledProcedureStepStartTime": "1000-1000"},
    {"PatientID": "P03"},
    {"PatientName": "Family1^*"},
    {"AccessionNumber": "A07"},
    {"RequestedProcedureID": "R05"},
    {"PatientID": "NOBODY"},
]


def items() -> list[Dataset]:
    """Twenty steps on four days, for three stations."""
    choose = random.Random(5)  # noqa: S311 the same items each time
    made = []
    for number in range(20):
        ds, step = Dataset(), Dataset()
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.PatientID, ds.PatientName = f"P{number:02}", f"Family{number % 4}^Given{number}"
        ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber = "19500102", "O", f"A{number:02}"
        ds.StudyInstanceUID, ds.RequestedProcedureID = f"1.2.3.4.{number}", f"R{number:02}"
        ds.RequestedProcedureDescription = "Thorax"
        step.Modality, step.ScheduledStationAETitle = choose.choice(["CT", "MR", "US"]), f"STATION{number % 3}"
        step.ScheduledProcedureStepStartDate = f"202612{1 + number % 4:02}"
        step.ScheduledProcedureStepStartTime = choose.choice(["080000", "093000", "100000", "143000"])
        step.ScheduledProcedureStepID, step.ScheduledProcedureStepDescription = f"S{number:02}", "Thorax"
        ds.ScheduledProcedureStepSequence = [step]
        made.append(ds)
    return made


def save_wl(ds: Dataset, path: Path) -> None:
    """As DCMTK's dump2dcm writes worklist files."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.276.0.7230010.3.1.0.1"), UID("1.2.3")
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What wlmscpfs reads: a folder named by its AE title, with a lock file and the items."""
    title = tmp_path_factory.mktemp("wl") / "WLM"
    title.mkdir()
    (title / "lockfile").touch()
    for number, ds in enumerate(items()):
        save_wl(ds, title / f"item{number:02}.wl")
    return title


@pytest.fixture(scope="module")
def wlmscpfs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scp]:
    (port,) = free_ports(1)
    command = ["wlmscpfs", "-dfp", str(folder.parent), str(port)]
    with daemon(command, log=tmp_path_factory.mktemp("wlmscpfs") / "log") as running:
        running.wait_for_port(port, within=20)
        yield Scp(port, "WLM")


@pytest.fixture(scope="module")
def scheduled(listener: Listener, folder: Path) -> Listener:
    """A listener with the same items, from the same files."""
    done = assert_succeeded(listener.run_pacs("worklist", "import", folder))
    assert "20 scheduled, 20 of them new" in done.stdout
    done = assert_succeeded(listener.run_pacs("worklist", "import", folder))
    assert "20 scheduled, 0 of them new" in done.stdout
    return listener


def facts(answers: list[Dataset]) -> list[str]:
    """What was answered, without the order of the answers."""
    for answer in answers:
        answer.pop("SpecificCharacterSet", None)
    return sorted(answer.to_json() for answer in answers)


@pytest.mark.parametrize("keys", QUERIES, ids=lambda keys: ",".join(f"{k.removeprefix(STEP)}={v}" for k, v in keys.items()) or "all")
def test_a_query_is_answered_as_wlmscpfs_answers_it(scheduled: Listener, wlmscpfs: Scp, tmp_path: Path, keys: Mapping[str, str]) -> None:
    asked = {**RETURNED, **keys}
    ours = facts(findscu(scheduled.scp, tmp_path / "ours", "worklist", "", asked))
    theirs = facts(findscu(wlmscpfs, tmp_path / "theirs", "worklist", "", asked))
    assert ours == theirs
    assert bool(ours) == (keys != {"PatientID": "NOBODY"})


@pytest.mark.parametrize(
    ("keys", "count"),
    [({STEP + "ScheduledStationAETitle": "STATION?"}, 20), ({"PatientID": "P0*"}, 10), ({"StudyInstanceUID": "1.2.3.4.11"}, 1)],
)
def test_more_can_be_matched_than_the_standard_demands(scheduled: Listener, tmp_path: Path, keys: Mapping[str, str], count: int) -> None:
    # wlmscpfs takes no wildcards here, and passes over StudyInstanceUID: table K.6-1 asks for no more.
    assert len(findscu(scheduled.scp, tmp_path, "worklist", "", {**RETURNED, **keys})) == count


def test_each_query_is_a_row(scheduled: Listener) -> None:
    ask(scheduled, identifier(PatientID="P03"), calling="NOTED")

    def noted() -> list[dict[str, Any]]:
        return scheduled.sql("SELECT status, matches FROM worklist_query WHERE calling_ae = 'NOTED'")

    assert eventually(noted, what="the record of the query") == [{"status": "0000", "matches": 1}]


def identifier(**keys: str) -> Dataset:
    ds = Dataset()
    for keyword, value in {"PatientID": "", "PatientName": "", **keys}.items():
        setattr(ds, keyword, value)
    ds.ScheduledProcedureStepSequence = []
    return ds


def ask(listener: Listener, question: Dataset, *, calling: str = "TESTSCU") -> tuple[list[Dataset], list[int]]:
    """The matches, and every status that came."""
    matches, statuses = [], []
    with scu.association(listener.scp, (MODALITY_WORKLIST, ExplicitVRLittleEndian), calling=calling) as assoc:
        for response, match in assoc.send_c_find(question, MODALITY_WORKLIST):
            statuses.append(int(response.Status))
            if match is not None:
                matches.append(match)
    return matches, statuses


def test_items_are_added_listed_changed_and_removed_by_hand(new_listener: Callable[..., Listener]) -> None:
    listener = new_listener()
    add = ["worklist", "add", "--patient-id", "P1", "--name", "Müller^Jörg", "--station", "CT1", "--modality", "CT", "--accession", "A1"]
    assert_succeeded(listener.run_pacs(*add, "--start", "2026-12-01T08:30:00", "--description", "Thorax"))
    assert_succeeded(listener.run_pacs(*add, "--start", "2026-12-01T09:30:00", "--description", "Thorax"))
    (row,) = json.loads(assert_succeeded(listener.run_pacs("worklist", "list", "--format", "json")).stdout)
    assert (row["PatientName"], row["scheduled_at"], row["state"]) == ("Müller^Jörg", "2026-12-01 09:30:00", "SCHEDULED")
    question = identifier(PatientName="muller*")
    question.SpecificCharacterSet = "ISO_IR 100"
    (match,), statuses = ask(listener, question)
    assert (match.PatientName, match.SpecificCharacterSet, statuses) == ("Müller^Jörg", "ISO_IR 100", [0xFF00, 0x0000])
    assert match.ScheduledProcedureStepSequence[0].ScheduledProcedureStepDescription == "Thorax"
    assert_succeeded(listener.run_pacs("worklist", "remove", "A1"))
    assert ask(listener, identifier()) == ([], [0x0000])
    assert listener.run_pacs("worklist", "remove", "A1").returncode == 2


def test_what_cannot_be_scheduled_is_told_with_its_place_and_keeps_nothing_else_out(
    new_listener: Callable[..., Listener], tmp_path: Path
) -> None:
    listener = new_listener()
    columns = "PatientID,PatientName,ScheduledStationAETitle,Modality,ScheduledProcedureStepStartDate,ScheduledProcedureStepStartTime"
    (tmp_path / "a.csv").write_text(f"{columns}\nP1,A^B,CT1,CT,20261201,0800\nP2,A^B,CT1,CT,tomorrow,0800\n,A^B,CT1,CT,20261201,0800\n")
    (tmp_path / "b.json").write_text("{")
    done = listener.run_pacs("worklist", "import", tmp_path)
    assert done.returncode == 1
    assert "a.csv: line 3: not scheduled: ScheduledProcedureStepStartDate" in done.stdout
    assert "a.csv: line 4: not scheduled: PatientID must have a value" in done.stdout
    assert "b.json: file: not scheduled: it is not JSON" in done.stdout
    assert "1 scheduled, 1 of them new; 3 could not be" in done.stdout
    assert [match.PatientID for match in ask(listener, identifier())[0]] == ["P1"]


def test_odd_queries_are_answered_with_their_status(new_listener: Callable[..., Listener]) -> None:
    listener = new_listener()
    bad = identifier()
    step = Dataset()
    step.add(DataElement("ScheduledProcedureStepStartDate", "DA", "2026*", validation_mode=config.IGNORE))
    bad.ScheduledProcedureStepSequence = [step]
    assert ask(listener, bad) == ([], [0xA900])
    assert_succeeded(
        listener.run_pacs(
            *("worklist", "add", "--patient-id", "P1", "--name", "A^B", "--station", "CT1", "--modality", "CT", "--start", "2026-12-01")
        )
    )
    private = identifier()
    private.add_new(0x00091001, "LO", "x")
    assert ask(listener, private)[1] == [0xFF01, 0x0000]
