"""Pages of prints as Secondary Capture instances (PS3.3 A.8.1). Pure: the same job makes the same bytes, whenever it is done."""

import struct
from dataclasses import dataclass
from datetime import datetime
from uuid import NAMESPACE_OID, uuid5

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from pacs_core.model import UID

SOP_CLASS, TRANSFER_SYNTAX = UID(SecondaryCaptureImageStorage), UID(ExplicitVRLittleEndian)

_PIXEL_DATA = struct.Struct("<HH2s2xI")
_PLACEHOLDER = "PRINT"
_LONGEST_ID, _LONGEST_TEXT = 16, 64  # of an SH and of an LO


@dataclass(frozen=True, slots=True)
class CapturedPage:
    """A page of a job that was requested at a moment, as pixels of 8 bits a sample.

    Attributes:
        number: among the pages, from 1.
    """

    job: str
    number: int
    calling_ae: str
    label: str
    requested_at: datetime
    rows: int
    columns: int
    is_color: bool

    @property
    def SOPInstanceUID(self) -> UID:
        """Derived from job and number."""
        return _derived(self.job, f"page {self.number}")

    @property
    def StudyInstanceUID(self) -> UID:
        """Derived from the job: a study of its own for each, since nobody says whose images they are."""
        return study_of(self.job)


def study_of(job: str) -> UID:
    """The StudyInstanceUID of a job's pages."""
    return _derived(job, "study")


def head_of(page: CapturedPage) -> bytes:
    """The data set up to its pixels, which are to follow: `rows * columns` gray or RGB values, and a zero where they are odd in number.

    A print request names no patient: each job gets one of its own, so that nobody's images are taken for another's.
    """
    ds = _image(page)
    _add_study(ds, page)
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = False, True
    write_dataset(out, ds)
    length = page.rows * page.columns * ds.SamplesPerPixel
    return bytes(out.getvalue()) + _PIXEL_DATA.pack(0x7FE0, 0x0010, b"OB", length + length % 2)


def _add_study(ds: Dataset, page: CapturedPage) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID = f"{_PLACEHOLDER}^{page.calling_ae}", f"{_PLACEHOLDER}-{page.job[-16:]}"
    ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID = page.StudyInstanceUID, _derived(page.job, "series")
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = page.job[-_LONGEST_ID:], "", ""
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.DateOfSecondaryCapture = f"{page.requested_at:%Y%m%d}"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.TimeOfSecondaryCapture = f"{page.requested_at:%H%M%S.%f}"
    ds.TimezoneOffsetFromUTC = f"{page.requested_at:%z}"
    ds.StudyDescription = (page.label or f"Print of {page.calling_ae}")[:_LONGEST_TEXT]
    ds.Modality, ds.SeriesNumber, ds.SeriesDescription = "OT", 1, "Printed pages"
    ds.Laterality = ""
    ds.ConversionType, ds.SecondaryCaptureDeviceManufacturer = "WSD", "pacs"


def _image(page: CapturedPage) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASS, page.SOPInstanceUID
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.InstanceNumber, ds.PatientOrientation = page.number, ""
    ds.BurnedInAnnotation = "YES"
    ds.SamplesPerPixel = 3 if page.is_color else 1
    ds.PhotometricInterpretation = "RGB" if page.is_color else "MONOCHROME2"
    if page.is_color:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = page.rows, page.columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    return ds


def _derived(job: str, what: str) -> UID:
    return UID(f"2.25.{uuid5(NAMESPACE_OID, f'{job} {what}').int}")
