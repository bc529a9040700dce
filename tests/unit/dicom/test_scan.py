import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any

import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
from pydicom.valuerep import PersonName

from pacs_core.dicom.attributes import INDEXED
from pacs_core.dicom.file_meta import read_file_meta
from pacs_core.dicom.scan import scan
from pacs_core.errors import UnreadableDataSet

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
BUNDLED_FILES = sorted(
    path
    for path in BUNDLED.rglob("*")
    if path.is_file() and path.suffix not in {".txt", ".json", ".dump", ".icc", ".gz"} and path.name != "README"
)

# pydicom reads these without complaint, with a value shorter than its element says.
TRUNCATED = {"MR_truncated.dcm", "rtplan_truncated.dcm"}
# Its first bytes are missing; pydicom sees one private element.
DAMAGED = {"no_meta.dcm"}

# JPIP Referenced Deflate and JPIP HTJ2K Referenced Deflate
REFERENCED_DEFLATE = ["1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"]
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def encoded(ds: Dataset, syntax: str) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR = syntax == ImplicitVRLittleEndian
    out.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(out, ds)
    data = out.getvalue()
    if syntax in (DeflatedExplicitVRLittleEndian, *REFERENCED_DEFLATE):
        engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return engine.compress(data) + engine.flush()
    return data


def sample() -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
    ds.PatientName, ds.PatientID = "Ångström^Søren", "P 1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.5"
    ds.AccessionNumber = ""
    ds.Rows = 512
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    code, request, protocol = Dataset(), Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C1", "99X", "Schädel"
    protocol.CodeValue = "D"
    request.ScheduledProcedureStepID = "S1"
    request.ScheduledProtocolCodeSequence = Sequence([protocol])
    ds.ProcedureCodeSequence = Sequence([code, Dataset()])
    ds.RequestAttributesSequence = Sequence([request])
    ds.add_new(0x00091001, "UN", b"private")
    ds.PixelData = bytes(64)
    ds["PixelData"].VR = "OW"
    return ds


EXPECTED = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "SOPInstanceUID": "1.2.3.4",
    "PatientName": "Ångström^Søren",
    "PatientID": "P 1",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.5",
    "AccessionNumber": "",
    "Rows": "512",
    "ImageType": "ORIGINAL\\PRIMARY",
    "ProcedureCodeSequence": [{"CodeValue": "C1", "CodingSchemeDesignator": "99X", "CodeMeaning": "Schädel"}, {}],
    "RequestAttributesSequence": [{"ScheduledProcedureStepID": "S1", "ScheduledProtocolCodeSequence": [{"CodeValue": "D"}]}],
}


@pytest.mark.parametrize("syntax", [*SYNTAXES, *REFERENCED_DEFLATE])
@pytest.mark.parametrize("delimited", [False, True])
def test_the_indexed_attributes_are_found_in_every_transfer_syntax(syntax: str, delimited: bool) -> None:
    ds = sample()
    for element in (ds["ProcedureCodeSequence"], ds["RequestAttributesSequence"]):
        element.is_undefined_length = delimited
        for item in element.value:
            item.is_undefined_length_sequence_item = delimited
    result = scan(encoded(ds, syntax), syntax)
    assert result.header == EXPECTED
    assert (result.SOPInstanceUID, result.StudyInstanceUID, result.SeriesInstanceUID) == ("1.2.3.4", "1.2.3", "1.2.3.5")


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_way_to_cut_a_data_set_short_is_refused(syntax: str) -> None:
    ds = sample()
    ds["RequestAttributesSequence"].is_undefined_length = True
    data = encoded(ds, syntax)
    boundaries = set()
    if syntax != DeflatedExplicitVRLittleEndian:  # a cut between two elements leaves a shorter, whole data set
        for tag in sorted(ds.keys()):
            head = Dataset()
            head.update({other.tag: other for other in ds if other.tag < tag})
            boundaries.add(len(encoded(head, syntax)))
    for length in range(1, len(data)):
        boundary = max((boundary for boundary in boundaries if boundary <= length), default=0)
        if boundary in boundaries and not any(data[boundary:length]):
            continue  # in big endian a tag begins with zero, which may as well be padding
        with pytest.raises(UnreadableDataSet):
            scan(data[:length], syntax)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(UnreadableDataSet):
        scan(b"", ImplicitVRLittleEndian)


def test_implicit_vr_where_explicit_was_announced_is_read_and_the_other_way_round() -> None:
    assert scan(encoded(sample(), ImplicitVRLittleEndian), ExplicitVRLittleEndian).header == EXPECTED
    assert scan(encoded(sample(), ExplicitVRLittleEndian), ImplicitVRLittleEndian).header == EXPECTED


def test_zero_padding_behind_the_last_element_is_ignored() -> None:
    for syntax in SYNTAXES[:3]:
        for padding in (1, 7, 8, 13, 512):
            assert scan(encoded(sample(), syntax) + bytes(padding), syntax).header == EXPECTED


def test_other_bytes_behind_the_last_element_are_refused() -> None:
    with pytest.raises(UnreadableDataSet):
        scan(encoded(sample(), ExplicitVRLittleEndian) + b"\1\2\3", ExplicitVRLittleEndian)


def test_a_sequence_of_unknown_vr_is_implicit_inside() -> None:
    item = pack("<HHI", 0x0008, 0x0100, 2) + b"C1"
    sequence = pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    undefined = pack("<HH2sHI", 0x0008, 0x1032, b"UN", 0, 0xFFFFFFFF) + sequence + pack("<HHI", 0xFFFE, 0xE0DD, 0)
    defined = pack("<HH2sHI", 0x0008, 0x1032, b"UN", 0, len(sequence)) + sequence
    for element in (undefined, defined):
        assert scan(element, ExplicitVRLittleEndian).header == {"ProcedureCodeSequence": [{"CodeValue": "C1"}]}


def test_encapsulated_pixel_data_is_walked_by_its_fragments() -> None:
    head = encoded(sample(), ExplicitVRLittleEndian)[: -12 - 64]
    pixels = pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + pack("<HHI", 0xFFFE, 0xE000, 0)
    # The fragment holds what looks like the end of the sequence.
    fragment = pack("<HHI", 0xFFFE, 0xE000, 8) + pack("<HHI", 0xFFFE, 0xE0DD, 0)
    end = pack("<HHI", 0xFFFE, 0xE0DD, 0)
    assert scan(head + pixels + fragment + end, JPEGBaseline8Bit).header == EXPECTED
    for broken in (
        pixels,
        pixels + fragment,
        pixels + fragment[:-1],
        pixels + fragment + end[:-1],
        pixels + pack("<HHI", 0xFFFE, 0xE000, 100),
    ):
        with pytest.raises(UnreadableDataSet):
            scan(head + broken, JPEGBaseline8Bit)


def test_endless_nesting_is_refused() -> None:
    level = pack("<HHI", 0x0008, 0x1032, 0xFFFFFFFF) + pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(UnreadableDataSet):
        scan(level * 10_000, ImplicitVRLittleEndian)


def test_a_deflated_data_set_expands_only_so_far() -> None:
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = engine.compress(bytes(4 << 20)) + engine.flush()
    with pytest.raises(UnreadableDataSet):
        scan(bomb, DeflatedExplicitVRLittleEndian, inflate_limit=1 << 20)
    with pytest.raises(UnreadableDataSet):
        scan(b"no deflate stream", DeflatedExplicitVRLittleEndian)


def textual(value: Any) -> str:
    """A pydicom value as text: numbers as they were written, "" for none."""
    values = value if isinstance(value, MultiValue) else [value]
    return "\\".join(
        "" if single is None else str(getattr(single, "original_string", single) if not isinstance(single, PersonName) else single).strip()
        for single in values
    )


def bundled_id(path: Path) -> str:
    return path.relative_to(BUNDLED).as_posix()


@pytest.mark.parametrize("path", BUNDLED_FILES, ids=bundled_id)
def test_pydicoms_files_are_read_as_pydicom_reads_them(path: Path) -> None:
    content = path.read_bytes()
    meta = read_file_meta(BytesIO(content))
    if path.name in TRUNCATED | DAMAGED:
        with pytest.raises(UnreadableDataSet):
            scan(content[meta.data_offset :], meta.TransferSyntaxUID)
        return
    header = scan(content[meta.data_offset :], meta.TransferSyntaxUID).header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(path, force=True)
        present = {keyword for keywords in INDEXED.values() for keyword in keywords if keyword in ds}
        assert set(header) == present
        for keyword in present:
            value = header[keyword]
            if isinstance(value, list):
                assert len(value) == len(ds[keyword].value)
            else:
                assert value.strip() == textual(ds[keyword].value)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=400), st.sampled_from([*SYNTAXES, JPEGBaseline8Bit]))
def test_random_bytes_are_read_or_refused(data: bytes, syntax: str) -> None:
    with suppress(UnreadableDataSet):
        assert isinstance(scan(data, syntax).header, dict)


@settings(max_examples=300)
@given(st.data(), st.sampled_from(SYNTAXES[:3]))
def test_damaged_data_sets_are_read_or_refused(data: st.DataObject, syntax: str) -> None:
    content = bytearray(encoded(sample(), syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UnreadableDataSet):
        assert isinstance(scan(content, syntax).header, dict)
