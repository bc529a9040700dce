"""`pacs import` of what people have on disks and media."""

import os
import shutil
import zipfile
from pathlib import Path

import pydicom
from pydicom import dcmread

from tests.support import dcmtk
from tests.support.archive import Listener
from tests.support.part10 import assert_identical
from tests.support.processes import assert_succeeded
from tests.support.synthetic import Study

DICOMDIR_MEDIA = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"

ODD_NAMES = [
    "with space.dcm",
    "-rf",
    "no extension",
    "line\nfeed.dcm",
    "ünïcödé 山田.dcm",
    "'quoted' \"twice\".dcm",
    "$(reboot);.dcm",
    "%s%n.dcm",
    ".hidden.dcm",
    "x" * 200,
]


def _stored(listener: Listener, study: str) -> list[Path]:
    rows = listener.sql(f"SELECT path FROM instance WHERE StudyInstanceUID = '{study}'")
    return [listener.home / "hot" / row["path"] for row in rows]


def test_files_are_imported_whatever_their_name(listener: Listener, tmp_path: Path) -> None:
    study = Study("MR", instances=len(ODD_NAMES) + 1)
    folder = tmp_path / "media" / "deep er"
    folder.mkdir(parents=True)
    names = [*map(os.fsencode, ODD_NAMES), b"not utf-8 \xff\xfe.dcm"]
    files = [path.rename(folder / os.fsdecode(name)) for path, name in zip(study.write(tmp_path / "made"), names, strict=True)]
    assert_succeeded(listener.run_pacs("import", tmp_path / "media"))
    assert_identical(files, _stored(listener, study.uid))


def test_each_refused_file_is_named_with_why_and_the_others_are_imported(listener: Listener, tmp_path: Path) -> None:
    study = Study("MR", instances=2)
    files = study.write(tmp_path)
    (other,) = Study("MR").write(tmp_path / "other")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "text.txt").write_text("not an image\n" * 100)
    (tmp_path / "short.dcm").write_bytes(other.read_bytes()[:3000])
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and then nothing")
    shutil.rmtree(tmp_path / "other")

    done = listener.run_pacs("import", tmp_path)
    assert done.returncode == 1
    for name in ("empty.dcm", "text.txt", "short.dcm", "broken.zip"):
        (line,) = [line for line in done.stdout.splitlines() if name in line]
        assert len(line.partition(name)[2].strip(" :")) > 10, line
    assert_identical(files, _stored(listener, study.uid))


def test_zip_files_are_imported_and_their_member_names_reach_no_path(listener: Listener, tmp_path: Path) -> None:
    study = Study("MR", instances=3)
    files = study.write(tmp_path / "made")
    names = ["a/b/plain.dcm", "../../../../../../tmp/pacs-escaped.dcm", "/etc/pacs-escaped.dcm"]
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, name in zip(files, names, strict=True):
            archive.write(path, name)
    assert_succeeded(listener.run_pacs("import", tmp_path / "study.zip"))
    assert_identical(files, _stored(listener, study.uid))
    assert not Path("/tmp/pacs-escaped.dcm").exists()
    assert not Path("/etc/pacs-escaped.dcm").exists()


def test_dicomdir_media_are_imported(listener: Listener, tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    for patient in ("77654033", "98892003"):
        shutil.copytree(DICOMDIR_MEDIA / patient, medium / patient)
    shutil.copy(DICOMDIR_MEDIA / "DICOMDIR", medium)
    assert_succeeded(listener.run_pacs("import", medium / "DICOMDIR"))
    files = list(medium.glob("*/*/*"))
    studies = {str(dcmread(path).StudyInstanceUID) for path in files}
    assert_identical(files, [path for study in studies for path in _stored(listener, study)])


def test_importing_again_adds_nothing_and_says_so(listener: Listener, tmp_path: Path) -> None:
    study = Study("MR", instances=4)
    study.write(tmp_path)
    for _ in range(2):
        assert_succeeded(listener.run_pacs("import", tmp_path))
    assert len(_stored(listener, study.uid)) == 4


def test_what_was_imported_is_found_and_retrieved(listener: Listener, tmp_path: Path) -> None:
    study = Study("MR", instances=2)
    files = study.write(tmp_path / "made")
    assert_succeeded(listener.run_pacs("import", tmp_path / "made"))
    got = dcmtk.getscu(listener.scp, tmp_path / "got", "study", "STUDY", {"StudyInstanceUID": study.uid})
    assert got.status == 0x0000, got.output
    assert_identical(files, (tmp_path / "got").iterdir())
