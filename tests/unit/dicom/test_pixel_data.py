"""The pixels of a message apart from the rest of it, and pages as Secondary Capture."""

from datetime import UTC, datetime, timedelta
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_core.dicom.pixel_data import parted
from pacs_core.dicom.secondary_capture import CapturedPage, head_of
from pacs_core.errors import UnreadableDataSet
from tests.support.printing import image_item


def encoded(ds: Dataset, syntax: UID) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(out, ds)
    return bytes(out.getvalue())


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_pixels_within_a_sequence_are_parted_from_what_says_what_they_are(syntax: UID) -> None:
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    ds = Dataset()
    ds.ImageBoxPosition = 1
    ds.BasicGrayscaleImageSequence = [image_item(pixels)]
    rest, (found,) = parted(memoryview(encoded(ds, syntax)), syntax)
    assert bytes(found) == pixels.tobytes()
    read = read_dataset(BytesIO(rest), syntax.is_implicit_VR, syntax.is_little_endian)
    assert read.BasicGrayscaleImageSequence[0].Rows == 20
    assert not read.BasicGrayscaleImageSequence[0].PixelData


def test_what_is_cut_short_is_refused() -> None:
    ds = Dataset()
    ds.BasicGrayscaleImageSequence = [image_item(np.zeros((20, 30), np.uint8))]
    with pytest.raises(UnreadableDataSet):
        parted(memoryview(encoded(ds, ExplicitVRLittleEndian))[:-10], ExplicitVRLittleEndian)


def captured(number: int = 1, *, is_color: bool = False, job: str = "2.25.123456789012345678") -> CapturedPage:
    requested_at = datetime(2026, 11, 28, 1, 2, 3, 4, tzinfo=UTC)
    return CapturedPage(job, number, "CT1", "Thorax", requested_at, rows=3, columns=5, is_color=is_color)


@pytest.mark.parametrize("is_color", [False, True])
def test_a_page_is_an_image_of_a_study_of_its_job(is_color: bool) -> None:
    page = captured(is_color=is_color)
    size = 45 if is_color else 15
    ds = read_dataset(BytesIO(head_of(page) + bytes(size) + b"\0"), is_implicit_VR=False, is_little_endian=True)
    assert len(ds.PixelData) == size + 1
    assert (ds.SOPInstanceUID, ds.StudyInstanceUID) == (page.SOPInstanceUID, page.StudyInstanceUID)
    assert (ds.StudyDescription, ds.PatientName, ds.BurnedInAnnotation) == ("Thorax", "PRINT^CT1", "YES")
    assert (ds.StudyDate, ds.StudyTime, ds.TimezoneOffsetFromUTC) == ("20261128", "010203.000004", "+0000")
    assert ds.SamplesPerPixel == (3 if is_color else 1)


def test_the_same_page_is_the_same_bytes_and_another_one_is_another_instance() -> None:
    assert head_of(captured()) == head_of(captured())
    assert len({captured(number, job=job).SOPInstanceUID for number in (1, 2) for job in ("1.1", "1.2")}) == 4
    assert captured(1).StudyInstanceUID == captured(2).StudyInstanceUID != captured(1, job="1.1").StudyInstanceUID
    assert all(len(each) <= 64 for each in (captured().SOPInstanceUID, captured().StudyInstanceUID))
    assert captured().requested_at.utcoffset() == timedelta(0)
