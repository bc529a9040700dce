from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import UID as PydicomUID
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_core.dicom.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, build_file_meta, read_file_meta
from pacs_core.errors import UnreadableDataSet
from pacs_core.model import UID, Origin, StoreRequest

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
ORIGIN = Origin("CT1", "PACS", datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC))
REQUEST = StoreRequest(UID("1.2.840.10008.5.1.4.1.1.2"), UID("1.2.3"), UID("1.2.840.10008.1.2"), ORIGIN)


def test_what_was_built_is_read_back() -> None:
    meta = build_file_meta(REQUEST)
    assert build_file_meta(REQUEST) == meta
    found = read_file_meta(BytesIO(meta + b"data set"))
    assert (found.SOPClassUID, found.SOPInstanceUID, found.TransferSyntaxUID) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2")
    assert found.origin == ORIGIN
    assert found.data_offset == len(meta)


@given(source=st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=16), when=st.datetimes(timezones=st.just(UTC)))
def test_every_origin_survives(source: str, when: datetime) -> None:
    origin = Origin(source, "PACS", when)
    request = StoreRequest(REQUEST.SOPClassUID, REQUEST.SOPInstanceUID, REQUEST.TransferSyntaxUID, origin)
    assert read_file_meta(BytesIO(build_file_meta(request) + b"x")).origin == origin


def test_pydicom_reads_what_was_built() -> None:
    ds = dcmread(BytesIO(build_file_meta(REQUEST)))
    meta = ds.file_meta
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.SourceApplicationEntityTitle == "CT1"
    assert meta.ReceivingApplicationEntityTitle == "PACS"
    assert len(build_file_meta(REQUEST)) == 128 + 4 + 12 + meta.FileMetaInformationGroupLength


def test_the_implementation_class_uid_is_valid() -> None:
    assert PydicomUID(IMPLEMENTATION_CLASS_UID).is_valid
    assert len(IMPLEMENTATION_VERSION_NAME) <= 16


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("ExplVR_BigEndNoMeta.dcm", ExplicitVRBigEndian),
        ("ExplVR_LitEndNoMeta.dcm", ExplicitVRLittleEndian),
        ("rtstruct.dcm", ImplicitVRLittleEndian),
        ("no_meta_group_length.dcm", ImplicitVRLittleEndian),
        ("CT_small.dcm", ExplicitVRLittleEndian),
    ],
)
def test_files_with_and_without_meta_are_understood(name: str, syntax: str) -> None:
    with (BUNDLED / name).open("rb") as file:
        assert read_file_meta(file).TransferSyntaxUID == syntax


def test_a_file_of_another_product_has_no_origin() -> None:
    with (BUNDLED / "CT_small.dcm").open("rb") as file:
        assert read_file_meta(file).origin is None


def test_a_file_without_a_data_set_is_refused() -> None:
    for content in (b"", build_file_meta(REQUEST), build_file_meta(REQUEST)[:200]):
        with pytest.raises(UnreadableDataSet):
            read_file_meta(BytesIO(content))


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_understood_or_refused(data: bytes, prefixed: bool) -> None:
    try:
        meta = read_file_meta(BytesIO(bytes(128) + b"DICM\2\0" + data if prefixed else data))
    except UnreadableDataSet:
        return
    assert meta.TransferSyntaxUID


@pytest.mark.parametrize(("size", "read"), [(100, 16 << 10), (16_200, 1 << 20), (100_000, 1 << 20)])
def test_only_the_head_of_a_file_is_read_unless_its_group_is_longer(size: int, read: int) -> None:
    meta = build_file_meta(REQUEST) + b"\2\0\2\1OB\0\0" + size.to_bytes(4, "little") + bytes(size)
    file = BytesIO(meta + bytes(2 << 20))
    assert read_file_meta(file).data_offset == len(meta)
    assert file.tell() == read
