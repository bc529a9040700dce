import errno
import os
import shutil
import zipfile
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, BinaryIO

import pydicom.data
import pytest

from pacs_core.archive import importing
from pacs_core.archive.importing import Imported, Importer, Verdict, count_files, printable
from pacs_core.archive.ingest import Ingest
from pacs_core.dicom import part10
from pacs_core.errors import StorageUnavailable
from pacs_core.model import Duplicates, InvalidUIDs, Layout
from pacs_core.storage.journal import SegmentJournal
from pacs_core.storage.landing import LandingDirectory
from pacs_core.storage.uncommitted import JournalReader

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"


class Home:
    def __init__(self, root: Path, *, member_limit: int = 1 << 30) -> None:
        self.root = root
        ingest = Ingest(
            LandingDirectory(root / "hot"),
            SegmentJournal(root / "journal"),
            layout=Layout.UID,
            duplicates=Duplicates.KEEP_FIRST,
            invalid_uids=InvalidUIDs.REFUSE,
        )
        self.importer = Importer(ingest, root / "import", ae_title="PACS", private=False, member_limit=member_limit)

    def run(self, *paths: Path) -> list[Imported]:
        return list(self.importer.run(paths))

    def verdicts(self, *paths: Path) -> Counter[Verdict]:
        return Counter(outcome.verdict for outcome in self.run(*paths))

    def stored(self) -> set[str]:
        return {entry.record.SOPInstanceUID for entry in JournalReader(self.root / "journal").pending(100_000)[0]}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three instances, a note, and an empty file."""
    folder = tmp_path / "media"
    (folder / "deep/er").mkdir(parents=True)
    shutil.copy(BUNDLED / "CT_small.dcm", folder)
    shutil.copy(BUNDLED / "MR_small.dcm", folder / "deep")
    shutil.copy(BUNDLED / "rtplan.dcm", folder / "deep/er/no-suffix")
    (folder / "note.txt").write_text("not DICOM")
    (folder / "empty").touch()
    return folder


def test_a_folder_is_imported_with_a_verdict_for_every_file(home: Home, folder: Path) -> None:
    outcomes = {Path(outcome.source).name: outcome for outcome in home.run(folder)}
    assert {name: outcome.verdict for name, outcome in outcomes.items()} == {
        "CT_small.dcm": Verdict.STORED,
        "MR_small.dcm": Verdict.STORED,
        "no-suffix": Verdict.STORED,
        "note.txt": Verdict.REFUSED,
        "empty": Verdict.REFUSED,
    }
    assert outcomes["note.txt"].reason.startswith("not a DICOM file")
    assert outcomes["empty"].reason.startswith("not a DICOM file")
    assert len(home.stored()) == 3
    assert count_files([folder]) == 5


def test_a_file_is_imported_by_its_name_and_a_missing_one_is_refused(home: Home, folder: Path) -> None:
    assert home.verdicts(folder / "CT_small.dcm", folder / "absent") == {Verdict.STORED: 1, Verdict.REFUSED: 1}


def test_the_same_import_again_skips_what_is_done_and_reads_what_has_changed(home: Home, folder: Path) -> None:
    home.run(folder)
    assert home.verdicts(folder) == {Verdict.DONE_BEFORE: 3, Verdict.REFUSED: 2}
    os.utime(folder / "CT_small.dcm", ns=(1, 1))
    shutil.copy(BUNDLED / "rtdose.dcm", folder / "new")
    assert home.verdicts(folder) == {Verdict.DONE_BEFORE: 2, Verdict.REFUSED: 2, Verdict.ALREADY_HELD: 1, Verdict.STORED: 1}


def test_an_interrupted_import_goes_on_where_it_was(home: Home, folder: Path) -> None:
    running = home.importer.run([folder])
    next(outcome for outcome in running if outcome.verdict is Verdict.STORED)
    del running
    assert home.verdicts(folder) == {Verdict.DONE_BEFORE: 1, Verdict.STORED: 2, Verdict.REFUSED: 2}


def test_a_log_that_a_crash_cut_short_costs_nothing_but_time(home: Home, folder: Path) -> None:
    home.run(folder)
    [log] = (home.root / "import").glob("*.log")
    log.write_bytes(log.read_bytes()[:-9])
    assert home.verdicts(folder) == {Verdict.DONE_BEFORE: 2, Verdict.ALREADY_HELD: 1, Verdict.REFUSED: 2}
    assert home.verdicts(folder) == {Verdict.DONE_BEFORE: 3, Verdict.REFUSED: 2}


def test_other_content_under_a_held_uid_goes_into_quarantine(home: Home, folder: Path) -> None:
    home.run(folder)
    content = bytearray((folder / "CT_small.dcm").read_bytes())
    content[-200] ^= 1
    (folder / "CT_small.dcm").write_bytes(content)
    assert home.verdicts(folder)[Verdict.KEPT_FIRST] == 1


def test_media_with_a_dicomdir_are_imported_by_folder_or_by_dicomdir(tmp_path: Path) -> None:
    media = BUNDLED / "dicomdirtests"
    by_folder, by_directory = Home(tmp_path / "1"), Home(tmp_path / "2")
    verdicts = by_folder.verdicts(media)
    assert verdicts == by_directory.verdicts(media / "DICOMDIR")
    assert verdicts[Verdict.STORED] == 81
    assert verdicts[Verdict.DIRECTORY] == 8
    assert by_folder.stored() == by_directory.stored()


def test_a_zip_file_is_imported_member_by_member(home: Home, folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        for path in folder.rglob("*"):
            members.write(path, path.relative_to(folder))
        members.write(folder / "CT_small.dcm", "../../../../tmp/escape.dcm")
        members.write(BUNDLED / "dicomdirtests/DICOMDIR", "DICOMDIR")
    assert home.verdicts(archive) == {Verdict.STORED: 3, Verdict.REFUSED: 2, Verdict.ALREADY_HELD: 1, Verdict.DIRECTORY: 1}
    assert home.verdicts(archive) == {Verdict.DONE_BEFORE: 4, Verdict.REFUSED: 2, Verdict.DIRECTORY: 1}
    assert [path.suffix for path in (home.root / "import").iterdir()] == [".log"]


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("bomb.dcm", bytes(8 << 20))
        members.write(BUNDLED / "CT_small.dcm", "CT_small.dcm")
    assert Home(tmp_path / "home", member_limit=1 << 20).verdicts(archive) == {Verdict.REFUSED: 1, Verdict.STORED: 1}


def test_damaged_zip_files_and_members_are_refused(home: Home, tmp_path: Path) -> None:
    archive = tmp_path / "good.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.write(BUNDLED / "CT_small.dcm", "CT_small.dcm")
    content = bytearray(archive.read_bytes())
    content[20_000] ^= 1
    (tmp_path / "flipped.zip").write_bytes(content)
    (tmp_path / "cut.zip").write_bytes(content[:10_000])
    [flipped, cut] = home.run(tmp_path / "flipped.zip", tmp_path / "cut.zip")
    assert (flipped.verdict, cut.verdict) == (Verdict.REFUSED, Verdict.REFUSED)
    assert "CT_small.dcm" in flipped.source


def test_names_that_are_no_text_are_imported_and_printable(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"\xff\xfe.dcm", b"new\nline.dcm", "Größe 病.dcm".encode(), b"\x1b[31m.dcm"):
        shutil.copy(BUNDLED / "CT_small.dcm", Path(os.fsdecode(os.fsencode(folder) + b"/" + name)))
    outcomes = home.run(folder)
    assert Counter(outcome.verdict for outcome in outcomes) == {Verdict.STORED: 1, Verdict.ALREADY_HELD: 3}
    for outcome in outcomes:
        assert outcome.source.isprintable()
        outcome.source.encode()
    assert home.verdicts(folder) == {Verdict.DONE_BEFORE: 4}


def test_special_files_and_loops_are_left_alone(home: Home, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to(folder)
    assert sum(home.verdicts(folder).values()) == 5


def test_a_file_that_cannot_be_read_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    [outcome] = home.run(tmp_path / "dangling")
    assert outcome.verdict is Verdict.REFUSED


def test_what_is_wrong_with_the_archive_itself_is_raised(tmp_path: Path, folder: Path) -> None:
    home = Home(tmp_path / "home")
    (tmp_path / "home").write_text("a file where the home should be")
    with pytest.raises(StorageUnavailable):
        home.run(folder)


def test_every_composite_instance_of_pydicoms_files_goes_in(home: Home) -> None:
    refused = {Path(outcome.source).name for outcome in home.run(BUNDLED) if outcome.verdict is Verdict.REFUSED}
    assert refused == {
        # No DICOM
        "README", "README.txt", "crayons.icc", "rtplan.dump", "rtstruct.dump", "test1.json", "test_PN.json", "zipMR.gz",
        # Cut short, or with the first bytes missing
        "MR_truncated.dcm", "rtplan_truncated.dcm", "no_meta.dcm",
        # Without a SOPClassUID and SOPInstanceUID in the data set
        "UN_sequence.dcm", "empty_charset_LEI.dcm", "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm", "no_meta_group_length.dcm",
        "priv_SQ.dcm",
        # Without StudyInstanceUID and SeriesInstanceUID
        "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "shown"), [("plain.dcm", "plain.dcm"), ("a\nb", "a\\nb"), ("\udcff", "\\udcff"), ("病", "病")])
def test_any_name_can_be_printed(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_a_damaged_dicom_file_is_not_called_foreign(home: Home, tmp_path: Path) -> None:
    (tmp_path / "cut.dcm").write_bytes((BUNDLED / "CT_small.dcm").read_bytes()[:5000])
    [outcome] = home.run(tmp_path / "cut.dcm")
    assert outcome.verdict is Verdict.REFUSED
    assert "not a DICOM file" not in outcome.reason


def test_a_source_is_read_and_never_mapped(home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a mapping that the medium cannot give out ends the process."""
    mapped: list[str] = []
    real = part10.mapped

    def watched(file: BinaryIO) -> AbstractContextManager[memoryview]:
        mapped.append(str(Path(f"/proc/self/fd/{file.fileno()}").readlink()))
        return real(file)

    monkeypatch.setattr(importing, "mapped", watched)
    assert home.verdicts(folder / "CT_small.dcm") == {Verdict.STORED: 1}
    monkeypatch.setattr(importing, "_IN_MEMORY", 1)
    assert home.verdicts(folder / "deep") == {Verdict.STORED: 2}
    assert len(mapped) == 2
    assert all(path.startswith(str(home.root / "import")) for path in mapped)


def test_a_medium_that_fails_in_the_middle_of_a_file_costs_that_file_only(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_IN_MEMORY", 1)
    real = importing._copy_bounded

    def failing(content: IO[bytes], copy: IO[bytes], limit: int) -> None:
        if "CT_small" in str(Path(f"/proc/self/fd/{content.fileno()}").readlink()):
            raise OSError(errno.EIO, "Input/output error")
        real(content, copy, limit)

    monkeypatch.setattr(importing, "_copy_bounded", failing)
    assert home.verdicts(folder) == {Verdict.STORED: 2, Verdict.REFUSED: 3}
