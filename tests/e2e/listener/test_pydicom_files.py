"""pydicom's bundled test files: whatever is a storable composite instance goes in and comes back, byte for byte.

They were collected because readers stumble over them: odd transfer syntaxes, character sets, private sequences,
wrong VRs, missing lengths.
"""

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.support import scu
from tests.support.archive import Listener
from tests.support.catalog import Catalogs
from tests.support.part10 import dataset_bytes, transfer_syntax

DATA = Path(pydicom.__file__).parent / "data"

# Files without a file meta do not say how they are encoded; this is how.
ENCODING_WITHOUT_META = {
    "test_files/ExplVR_BigEndNoMeta.dcm": ExplicitVRBigEndian,
    "test_files/ExplVR_LitEndNoMeta.dcm": ExplicitVRLittleEndian,
    "test_files/no_meta.dcm": ImplicitVRLittleEndian,
    "test_files/rtstruct.dcm": ImplicitVRLittleEndian,
}

_NO_UIDS = "no SOPInstanceUID, StudyInstanceUID or SeriesInstanceUID in its data set"
_NO_STUDY = "no StudyInstanceUID and SeriesInstanceUID: nothing to file it under"
_DIRECTORY = "a DICOMDIR: a directory of instances, which `pacs import` follows, not an instance"
_NOT_DICOM = "not DICOM"

# Every bundled file that is not a storable composite instance, and why.
NOT_STORABLE = {
    "charset_files/chrSQEncoding.dcm": _NO_UIDS,
    "charset_files/chrSQEncoding1.dcm": _NO_UIDS,
    "test_files/JPEGLSNearLossless_08.dcm": _NO_STUDY,
    "test_files/JPEGLSNearLossless_16.dcm": _NO_STUDY,
    "test_files/SC_rgb_jls_lossy_line.dcm": _NO_STUDY,
    "test_files/SC_rgb_jls_lossy_sample.dcm": _NO_STUDY,
    "test_files/UN_sequence.dcm": _NO_UIDS,
    "test_files/crayons.icc": _NOT_DICOM,
    "test_files/dicomdirtests/DICOMDIR": _DIRECTORY,
    "test_files/dicomdirtests/DICOMDIR-bigEnd": _DIRECTORY,
    "test_files/dicomdirtests/DICOMDIR-empty.dcm": _DIRECTORY,
    "test_files/dicomdirtests/DICOMDIR-implicit": _DIRECTORY,
    "test_files/dicomdirtests/DICOMDIR-nooffset": _DIRECTORY,
    "test_files/dicomdirtests/DICOMDIR-nopatient": _DIRECTORY,
    "test_files/dicomdirtests/DICOMDIR-reordered": _DIRECTORY,
    "test_files/dicomdirtests/TINY_ALPHA/DICOMDIR": _DIRECTORY,
    "test_files/dicomdirtests/TINY_ALPHA/README": _NOT_DICOM,
    "test_files/empty_charset_LEI.dcm": _NO_UIDS,
    "test_files/meta_missing_tsyntax.dcm": _NO_UIDS,
    "test_files/nested_priv_SQ.dcm": _NO_UIDS,
    "test_files/no_meta.dcm": _NO_UIDS,
    "test_files/no_meta_group_length.dcm": _NO_UIDS,
    "test_files/priv_SQ.dcm": _NO_UIDS,
    "test_files/rtplan.dump": _NOT_DICOM,
    "test_files/rtstruct.dump": _NOT_DICOM,
    "test_files/zipMR.gz": _NOT_DICOM,
}

# Instances that were cut short: never acknowledged.
TRUNCATED = ["test_files/MR_truncated.dcm", "test_files/rtplan_truncated.dcm"]


def _bundled() -> list[str]:
    skipped = {".py", ".pyc", ".txt", ".md", ".json", ".npy"}
    found = (path for folder in ("test_files", "charset_files") for path in (DATA / folder).rglob("*"))
    return sorted(str(path.relative_to(DATA)) for path in found if path.is_file() and path.suffix not in skipped)


STORABLE = [name for name in _bundled() if name not in NOT_STORABLE and name not in TRUNCATED]


@pytest.fixture(scope="module")
def replacing(tmp_path_factory: pytest.TempPathFactory, catalogs: Catalogs) -> Iterator[Listener]:
    """An archive in which the latest bytes win: many of the files are variants of one instance."""
    home = tmp_path_factory.mktemp("pydicom") / "home"
    listener = Listener(home, catalog_url=catalogs.new(), settings={"PACS_DUPLICATES": "replace"})
    listener.start()
    yield listener
    listener.stop()


def test_the_list_of_files_that_are_no_instances_is_current() -> None:
    assert set(NOT_STORABLE) <= set(_bundled())


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")  # pydicom has something to say about many of its own files
@pytest.mark.parametrize("name", STORABLE)
def test_it_comes_back_as_it_was_sent(replacing: Listener, name: str) -> None:
    path = DATA / name
    syntax = ENCODING_WITHOUT_META.get(name)
    sent, syntax = dataset_bytes(path), UID(syntax) if syntax else transfer_syntax(path)
    ds = _identity(path)
    assert scu.store_file(replacing.scp, path, syntax) == 0x0000

    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID, identifier.SeriesInstanceUID = ds.StudyInstanceUID, ds.SeriesInstanceUID
    identifier.SOPInstanceUID = ds.SOPInstanceUID
    received, final = scu.get_bytes(replacing.scp, identifier, [(ds.SOPClassUID, syntax)])
    assert final.Status == 0x0000
    assert received == {str(ds.SOPInstanceUID): sent}


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
@pytest.mark.parametrize("name", [name for name, why in NOT_STORABLE.items() if why is _NO_STUDY])
def test_an_instance_without_study_or_series_is_refused(replacing: Listener, name: str) -> None:
    assert scu.store_file(replacing.scp, DATA / name) == 0xA900


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
@pytest.mark.parametrize("name", TRUNCATED)
def test_an_instance_that_was_cut_short_is_refused(replacing: Listener, name: str) -> None:
    assert scu.store_file(replacing.scp, DATA / name) == 0xC000


def _identity(path: Path) -> Dataset:
    keywords = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
    return dcmread(path, force=True, stop_before_pixels=True, specific_tags=list(keywords))
