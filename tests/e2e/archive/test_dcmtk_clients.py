"""DCMTK's tools against a running archive: what a modality or a viewer that never heard of Python sees."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.support import dcmtk
from tests.support.archive import Archive
from tests.support.part10 import assert_identical, dataset_bytes, transfer_syntax
from tests.support.processes import assert_succeeded, free_ports, run
from tests.support.synthetic import Study

# Storage SOP classes of different families (PS3.4 annex B.5), with the modality that goes with each.
SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # enhanced
    "1.2.840.10008.5.1.4.1.1.6.1": "US",
    "1.2.840.10008.5.1.4.1.1.7": "OT",
    "1.2.840.10008.5.1.4.1.1.11.1": "PR",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "SM",
    "1.2.840.10008.5.1.4.1.1.88.59": "KO",
    "1.2.840.10008.5.1.4.1.1.104.1": "DOC",  # encapsulated PDF
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN",
}

# How to make a file of a transfer syntax from an explicit VR little endian one, and how to propose it: to storescu, to getscu.
ENCODINGS = {
    "explicit little endian": (["dcmconv", "+te"], "-xe", ["+xe"]),
    "explicit big endian": (["dcmconv", "+tb"], "-xb", ["+xb"]),
    "deflated": (["dcmconv", "+td"], "-xd", ["+xd"]),
    "RLE": (["dcmcrle"], "-xr", ["+xr"]),
    "JPEG lossless": (["dcmcjpeg", "+e1"], "-xs", ["+xs"]),
    "JPEG-LS lossless": (["dcmcjpls"], "-xt", ["+xt"]),
}

MODELS_AND_LEVELS = [
    (model, level)
    for model, levels in {"patient": ["PATIENT", "STUDY", "SERIES", "IMAGE"], "study": ["STUDY", "SERIES", "IMAGE"]}.items()
    for level in levels
]


def _keys(path: Path, model: str, level: str) -> dict[str, str]:
    """The unique keys that name the entity of `level` which the instance belongs to (PS3.4 C.4.2.1.4.1)."""
    ds = dcmread(path, stop_before_pixels=True)
    hierarchy = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    depth = ["PATIENT", "STUDY", "SERIES", "IMAGE"].index(level)
    return {keyword: str(ds[keyword].value) for keyword in hierarchy[0 if model == "patient" else 1 : depth + 1]}


def _below(paths: list[Path], level: str) -> list[Path]:
    """Those of the instances that are below the entity of `level` which the first belongs to."""
    keyword = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]
    values = {path: dcmread(path, stop_before_pixels=True)[keyword].value for path in paths}
    return [path for path in paths if values[path] == values[paths[0]]]


@pytest.fixture(scope="module")
def mr_study(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two studies of one patient, of two series of three instances each, stored."""
    first = Study("MR", series=2, instances=3)
    files = first.write(tmp_path_factory.mktemp("mr"))
    files += Study("MR", series=2, instances=3, patient_id=first.patient_id).write(files[0].parent)
    assert_succeeded(dcmtk.storescu(archive.scp, files))
    return files


@pytest.fixture
def destination(archive: Archive, tmp_path: Path) -> Callable[..., "tuple[str, int, Path]"]:
    """Enters a C-MOVE destination with the archive: its AE title, port and an empty directory for it."""

    def enter(ae_title: str) -> tuple[str, int, Path]:
        (port,) = free_ports(1)
        assert_succeeded(archive.run_pacs("peer", "add", ae_title, "127.0.0.1", str(port)))
        return ae_title, port, tmp_path / ae_title.lower()

    return enter


def test_echo_succeeds(archive: Archive) -> None:
    assert_succeeded(dcmtk.echoscu(archive.scp))


@pytest.mark.parametrize(("modality", "instances"), [("CT", 10), ("MR", 40)])
def test_what_storescu_sends_is_on_disk_and_in_the_index(archive: Archive, tmp_path: Path, modality: str, instances: int) -> None:
    study = Study(modality, series=2, instances=instances // 2)
    files = study.write(tmp_path / "sent")
    assert_succeeded(dcmtk.storescu(archive.scp, files))

    rows = archive.sql(f"SELECT SOPInstanceUID, size, sha256, path FROM instance WHERE StudyInstanceUID = '{study.uid}'")
    assert len(rows) == instances
    stored = [archive.home / "hot" / row["path"] for row in rows]
    assert_identical(files, stored)
    for row, path in zip(rows, stored, strict=True):
        content = path.read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (row["size"], row["sha256"])


def test_storing_the_same_again_is_harmless(archive: Archive, tmp_path: Path) -> None:
    study = Study("MR", instances=3)
    files = study.write(tmp_path / "sent")
    for _ in range(2):
        assert_succeeded(dcmtk.storescu(archive.scp, files))
    (row,) = archive.sql(f"SELECT count(*) AS held FROM instance WHERE StudyInstanceUID = '{study.uid}'")
    assert row["held"] == 3


def test_instances_of_many_sop_classes_come_back_as_sent(archive: Archive, tmp_path: Path) -> None:
    study = Study("MR")
    for sop_class, modality in SOP_CLASSES.items():
        study.attributes = {"SOPClassUID": sop_class, "Modality": modality}
        study.write(tmp_path / "sent")
    files = sorted((tmp_path / "sent").iterdir())
    assert_succeeded(dcmtk.storescu(archive.scp, files, "-R"))
    got = dcmtk.getscu(archive.scp, tmp_path / "got", "study", "STUDY", {"StudyInstanceUID": study.uid})
    assert got.status == 0x0000
    assert_identical(files, (tmp_path / "got").iterdir())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_each_transfer_syntax_is_stored_as_sent_and_comes_back_as_sent(archive: Archive, tmp_path: Path, encoding: str) -> None:
    convert, store_option, get_options = ENCODINGS[encoding]
    study = Study("MR", instances=2)
    (tmp_path / "sent").mkdir()
    for path in study.write(tmp_path / "native"):
        assert_succeeded(run([*convert, path, tmp_path / "sent" / path.name]))
    files = sorted((tmp_path / "sent").iterdir())
    for path in files:
        if len(dataset_bytes(path)) % 2:  # dcmconv leaves a deflated stream odd; PS3.5 A.5 pads it, and so does storescu
            path.write_bytes(path.read_bytes() + b"\0")
    assert_succeeded(dcmtk.storescu(archive.scp, files, store_option))

    rows = archive.sql(f"SELECT path, TransferSyntaxUID FROM instance WHERE StudyInstanceUID = '{study.uid}'")
    assert {row["TransferSyntaxUID"] for row in rows} == {str(transfer_syntax(files[0]))}
    assert_identical(files, [archive.home / "hot" / row["path"] for row in rows])
    got = dcmtk.getscu(archive.scp, tmp_path / "got", "study", "STUDY", {"StudyInstanceUID": study.uid}, *get_options)
    assert got.status == 0x0000, got.output
    assert_identical(files, (tmp_path / "got").iterdir())


def test_an_instance_is_converted_where_the_client_does_not_take_it_as_stored(archive: Archive, tmp_path: Path) -> None:
    study = Study("MR", instances=2, transfer_syntax=ImplicitVRLittleEndian)
    files = study.write(tmp_path / "sent")
    assert_succeeded(dcmtk.storescu(archive.scp, files, "-xi"))
    # Whatever it is told, getscu 3.6.7 proposes storage in explicit VR little endian only.
    got = dcmtk.getscu(archive.scp, tmp_path / "got", "study", "STUDY", {"StudyInstanceUID": study.uid})
    assert got.status == 0x0000, got.output
    (tmp_path / "back").mkdir()
    for path in (tmp_path / "got").iterdir():
        assert transfer_syntax(path) == ExplicitVRLittleEndian
        assert_succeeded(run(["dcmconv", "+ti", path, tmp_path / "back" / path.name]))
    assert_identical(files, (tmp_path / "back").iterdir())


@pytest.mark.parametrize(("model", "level"), MODELS_AND_LEVELS)
def test_getscu_brings_back_what_was_sent(archive: Archive, mr_study: list[Path], tmp_path: Path, model: str, level: str) -> None:
    wanted = _below(mr_study, level)
    got = dcmtk.getscu(archive.scp, tmp_path / "got", model, level, _keys(mr_study[0], model, level))
    assert got.status == 0x0000, got.output
    assert got.counters == {"completed": len(wanted), "failed": 0, "warning": 0} | ({"remaining": 0} if "remaining" in got.counters else {})
    assert_identical(wanted, (tmp_path / "got").iterdir())


@pytest.mark.parametrize(("model", "level"), MODELS_AND_LEVELS)
def test_movescu_sends_what_was_sent(
    archive: Archive, mr_study: list[Path], destination: Callable[..., tuple[str, int, Path]], model: str, level: str
) -> None:
    title, port, directory = destination("MOVEDEST")
    wanted = _below(mr_study, level)
    with dcmtk.storescp(directory, port=port, ae_title=title):
        moved = dcmtk.movescu(archive.scp, title, model, level, _keys(mr_study[0], model, level))
    assert moved.status == 0x0000, moved.output
    assert (moved.counters["completed"], moved.counters["failed"], moved.counters["warning"]) == (len(wanted), 0, 0)
    assert_identical(wanted, directory.iterdir())


def test_a_move_of_several_studies_sends_them_all(
    archive: Archive, mr_study: list[Path], destination: Callable[..., tuple[str, int, Path]]
) -> None:
    title, port, directory = destination("MOVELIST")
    uids = sorted({str(dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in mr_study})
    with dcmtk.storescp(directory, port=port, ae_title=title):
        moved = dcmtk.movescu(archive.scp, title, "study", "STUDY", {"StudyInstanceUID": "\\".join(uids)})
    assert moved.status == 0x0000, moved.output
    assert_identical(mr_study, directory.iterdir())


def test_a_move_in_another_transfer_syntax_than_the_default_sends_the_bytes_as_stored(
    archive: Archive, tmp_path: Path, destination: Callable[..., tuple[str, int, Path]]
) -> None:
    title, port, directory = destination("MOVEIMPL")
    study = Study("MR", instances=2, transfer_syntax=ImplicitVRLittleEndian)
    files = study.write(tmp_path / "sent")
    assert_succeeded(dcmtk.storescu(archive.scp, files, "-xi"))
    with dcmtk.storescp(directory, port=port, ae_title=title):
        moved = dcmtk.movescu(archive.scp, title, "study", "STUDY", {"StudyInstanceUID": study.uid})
    assert moved.status == 0x0000, moved.output
    assert_identical(files, directory.iterdir())


def test_a_move_to_an_unknown_destination_answers_a801(archive: Archive, mr_study: list[Path]) -> None:
    moved = dcmtk.movescu(archive.scp, "NOBODY", "study", "STUDY", _keys(mr_study[0], "study", "STUDY"))
    assert moved.status == 0xA801, moved.output


def test_a_removed_peer_is_unknown_again(archive: Archive, mr_study: list[Path], destination: Callable[..., tuple[str, int, Path]]) -> None:
    title, _, _ = destination("GONEDEST")
    assert title in assert_succeeded(archive.run_pacs("peer", "list")).stdout
    assert_succeeded(archive.run_pacs("peer", "remove", title))
    moved = dcmtk.movescu(archive.scp, title, "study", "STUDY", _keys(mr_study[0], "study", "STUDY"))
    assert moved.status == 0xA801, moved.output


def test_a_move_to_a_destination_that_does_not_answer_counts_every_instance_as_failed(
    archive: Archive, mr_study: list[Path], destination: Callable[..., tuple[str, int, Path]]
) -> None:
    title, _, _ = destination("DEADDEST")
    moved = dcmtk.movescu(archive.scp, title, "study", "STUDY", _keys(mr_study[0], "study", "STUDY"))
    assert moved.status == 0xA702, moved.output
    assert (moved.counters["completed"], moved.counters["failed"]) == (0, 6)


@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_retrieving_what_is_not_held_succeeds_with_nothing(
    archive: Archive, tmp_path: Path, destination: Callable[..., tuple[str, int, Path]], retrieve: str
) -> None:
    keys = {"StudyInstanceUID": "1.2.3.4.5.6.7.8.9"}
    if retrieve == "get":
        done = dcmtk.getscu(archive.scp, tmp_path / "got", "study", "STUDY", keys)
    else:
        title, _, _ = destination("EMPTYDEST")
        done = dcmtk.movescu(archive.scp, title, "study", "STUDY", keys)
    assert done.status == 0x0000, done.output
    assert done.counters.get("completed", 0) == 0


def test_a_retrieve_without_its_unique_key_is_refused(archive: Archive, tmp_path: Path) -> None:
    got = dcmtk.getscu(archive.scp, tmp_path / "got", "study", "SERIES", {"SeriesInstanceUID": ""})
    assert got.status == 0xA900, got.output


def test_a_cancelled_find_ends_with_its_own_status(archive: Archive, tmp_path: Path) -> None:
    study = Study("MR", instances=60)
    assert_succeeded(dcmtk.storescu(archive.scp, study.write(tmp_path / "sent")))
    arguments = [*archive.scp.arguments(), "-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={study.uid}"]
    arguments += ["-k", "SeriesInstanceUID", "-k", "SOPInstanceUID"]
    done = run(["findscu", "-S", "-d", "--cancel", "1", *arguments])
    # The cancel may arrive after the last match: then the find has succeeded (PS3.4 C.4.1.3.2).
    final = done.stdout.rpartition("DIMSE Status")[2]
    assert "0xfe00" in final or "0x0000" in final, done.stdout


def test_many_associations_at_once_store_everything(archive: Archive, tmp_path: Path) -> None:
    studies = [Study("MR", instances=10) for _ in range(8)]
    sent = [study.write(tmp_path / str(number)) for number, study in enumerate(studies)]
    with ThreadPoolExecutor(len(sent)) as pool:
        for done in pool.map(lambda files: dcmtk.storescu(archive.scp, files), sent):
            assert_succeeded(done)
    uids = ", ".join(f"'{study.uid}'" for study in studies)
    (row,) = archive.sql(
        f"SELECT count(*) AS held, count(DISTINCT SOPInstanceUID) AS once FROM instance WHERE StudyInstanceUID IN ({uids})"
    )
    assert row == {"held": 80, "once": 80}


def test_file_meta_tells_where_an_instance_came_from(archive: Archive, tmp_path: Path) -> None:
    study = Study("MR")
    (path,) = study.write(tmp_path / "sent")
    assert_succeeded(dcmtk.storescu(archive.scp, [path], calling="SCANNER7"))
    (row,) = archive.sql(f"SELECT path FROM instance WHERE StudyInstanceUID = '{study.uid}'")
    stored = archive.home / "hot" / row["path"]
    meta = dcmread(stored, stop_before_pixels=True).file_meta
    assert (meta.SourceApplicationEntityTitle, meta.ReceivingApplicationEntityTitle) == ("SCANNER7", archive.ae_title)
    assert dataset_bytes(stored) == dataset_bytes(path)
