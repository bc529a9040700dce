"""GDCM, odil and pynetdicom as clients: each parses and proposes in its own way."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt

from tests.support import dcmtk
from tests.support.archive import Archive
from tests.support.part10 import assert_identical
from tests.support.processes import assert_succeeded, daemon, free_ports, run
from tests.support.scu import MOVE, association
from tests.support.synthetic import Study


@dataclass(frozen=True)
class Held:
    """A study that the archive holds."""

    study: Study
    files: list[Path]


@pytest.fixture(scope="module")
def held(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Held:
    study = Study("MR", series=2, instances=2, attributes={"PatientName": "Held^By^Archive"})
    files = study.write(tmp_path_factory.mktemp("held"))
    assert_succeeded(dcmtk.storescu(archive.scp, files))
    return Held(study, files)


def _assert_held(archive: Archive, study: Study, count: int) -> None:
    (row,) = archive.sql(f"SELECT count(*) AS held FROM instance WHERE StudyInstanceUID = '{study.uid}'")
    assert row["held"] == count


def _enter_peer(archive: Archive, title: str) -> int:
    (port,) = free_ports(1)
    assert_succeeded(archive.run_pacs("peer", "add", title, "127.0.0.1", str(port)))
    return port


class TestGdcm:
    """`gdcmscu` (implicit VR little endian in its messages).

    Debian's 3.0.21 aborts while it releases its association, whoever the SCP is (DCMTK's storescp and pynetdicom's echoscp
    see the same), so its exit status says nothing. What it received before, and what it did, does.
    """

    def _run(self, archive: Archive, *args: str | Path) -> str:
        titles = ["--aetitle", "GDCMSCU", "--call", archive.ae_title]
        done = run(["gdcmscu", "--debug", *titles, *args, "127.0.0.1", str(archive.dicom_port)])
        assert done.returncode == 0 or done.stdout.rstrip().endswith("ProtocolStream as nullptr is invalid"), done.stdout
        assert "Received ItemType #6" in done.stdout, "the association was not released in order"
        return done.stdout

    def test_echo(self, archive: Archive) -> None:
        assert re.search(r"\(0000,0900\) \?\? \(US\) 0 ", self._run(archive, "--echo"))

    def test_store(self, archive: Archive, tmp_path: Path) -> None:
        study = Study("MR", series=2, instances=2)
        for path in study.write(tmp_path):
            self._run(archive, "--store", "-i", path)
        _assert_held(archive, study, 4)

    @pytest.mark.parametrize("root", ["--patientroot", "--studyroot"])
    def test_find(self, archive: Archive, held: Held, root: str) -> None:
        output = self._run(archive, "--find", root, "--study", "--key", f"20,d={held.study.uid}", "--key", "10,10=", "--key", "10,20=")
        assert "C-Find was successful." in output
        assert re.search(r"\(0000,0900\) \?\? \(US\) 65280 ", output), "no match was received"

    def test_move(self, archive: Archive, tmp_path: Path) -> None:
        # As a destination it accepts explicit VR and then reads implicit: what it is sent must be stored so.
        study = Study("MR", instances=2, transfer_syntax=ImplicitVRLittleEndian)
        files = study.write(tmp_path / "sent")
        assert_succeeded(dcmtk.storescu(archive.scp, files, "-xi"))
        port = _enter_peer(archive, "GDCMSCU")
        directory = tmp_path / "moved"
        directory.mkdir()
        keys = ["--key", f"10,20={study.patient_id}", "--key", f"20,d={study.uid}"]
        self._run(archive, "--move", "--patientroot", "--study", *keys, "-o", directory, "--port-scp", str(port))
        assert sorted(path.name for path in directory.iterdir()) == sorted(path.name for path in files)


class TestOdil:
    """`odil`, a C++ library that reads the Standard closely."""

    def _run(self, archive: Archive, command: str, *args: str | Path, options: tuple[str | Path, ...] = ()) -> str:
        target = ["127.0.0.1", str(archive.dicom_port), "ODILSCU", archive.ae_title]
        return assert_succeeded(run(["odil", command, *options, *target, *args])).stdout

    def test_echo(self, archive: Archive) -> None:
        self._run(archive, "echo")

    def test_store(self, archive: Archive, tmp_path: Path) -> None:
        study = Study("MR", series=2, instances=2)
        self._run(archive, "store", *study.write(tmp_path))
        _assert_held(archive, study, 4)

    @pytest.mark.parametrize("root", ["patient", "study"])
    def test_find(self, archive: Archive, held: Held, root: str) -> None:
        keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={held.study.uid}", "PatientName", "PatientID"]
        output = self._run(archive, "find", root, *keys)
        assert held.study.patient_id in output

    def test_get(self, archive: Archive, held: Held, tmp_path: Path) -> None:
        keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={held.study.uid}"]
        self._run(archive, "get", "study", *keys, options=("--directory", tmp_path))
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(held.files)


class TestPynetdicom:
    """The applications that come with pynetdicom, and its API as a C-MOVE destination with a will of its own."""

    def _run(self, archive: Archive, app: str, *args: str | Path) -> str:
        target = ["127.0.0.1", str(archive.dicom_port), "-aec", archive.ae_title]
        return assert_succeeded(run([sys.executable, "-m", "pynetdicom", app, *target, *args])).stdout

    def test_echo(self, archive: Archive) -> None:
        self._run(archive, "echoscu")

    def test_store(self, archive: Archive, tmp_path: Path) -> None:
        study = Study("MR", series=2, instances=2)
        study.write(tmp_path / "sent")
        self._run(archive, "storescu", tmp_path / "sent", "-r")
        _assert_held(archive, study, 4)

    @pytest.mark.parametrize("root", ["-P", "-S"])
    def test_find(self, archive: Archive, held: Held, root: str) -> None:
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={held.study.uid}", "-k", "PatientName="]
        assert "Held^By^Archive" in self._run(archive, "findscu", root, *keys)

    def test_get(self, archive: Archive, held: Held, tmp_path: Path) -> None:
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={held.study.uid}"]
        self._run(archive, "getscu", "-S", "-od", tmp_path, *keys)
        assert len(list(tmp_path.iterdir())) == len(held.files)

    def test_move_to_pynetdicoms_storescp(self, archive: Archive, held: Held, tmp_path: Path) -> None:
        port = _enter_peer(archive, "PYNETDEST")
        directory = tmp_path / "moved"
        command: list[str | Path] = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-aet", "PYNETDEST", "-od", directory]
        with daemon(command, log=tmp_path / "storescp.log") as scp:
            scp.wait_for_port(port, within=20)
            keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={held.study.uid}"]
            self._run(archive, "movescu", "-S", "-aem", "PYNETDEST", *keys)
        assert_identical(held.files, directory.iterdir())


@pytest.fixture
def choosy_destination(archive: Archive, held: Held) -> Iterator[str]:
    """A C-MOVE destination that refuses the first instance of `held` and takes the others."""
    port = _enter_peer(archive, "CHOOSY")

    def answer(event: evt.Event) -> int:
        return 0xA700 if event.request.AffectedSOPInstanceUID == held.files[0].stem else 0x0000  # type: ignore[union-attr]

    ae = AE(ae_title="CHOOSY")
    ae.supported_contexts = AllStoragePresentationContexts
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])
    assert server is not None
    yield "CHOOSY"
    server.shutdown()


def test_a_move_tells_which_instances_the_destination_did_not_take(archive: Archive, held: Held, choosy_destination: str) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", held.study.uid
    with association(archive.scp, (MOVE["study"], "1.2.840.10008.1.2.1")) as assoc:
        responses = list(assoc.send_c_move(identifier, choosy_destination, MOVE["study"]))
    final, failed = responses[-1]
    assert final.Status == 0xB000
    assert (final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (3, 1)
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == held.files[0].stem


def test_a_move_reports_its_progress_while_it_runs(archive: Archive, held: Held, choosy_destination: str) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", held.study.uid
    with association(archive.scp, (MOVE["study"], "1.2.840.10008.1.2.1")) as assoc:
        statuses = [response for response, _ in assoc.send_c_move(identifier, choosy_destination, MOVE["study"])]
    for response in statuses[:-1]:
        assert response.Status == 0xFF00
        done = response.NumberOfCompletedSuboperations + response.NumberOfFailedSuboperations
        assert done + response.NumberOfRemainingSuboperations == len(held.files)
    remaining = [response.NumberOfRemainingSuboperations for response in statuses[:-1]]
    assert remaining == sorted(remaining, reverse=True)
