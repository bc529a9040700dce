"""Instances made for tests: of the sizes that scanners send, each with UIDs of its own, never of a real person."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

# Patient names as PS3.5 writes them, by the SpecificCharacterSet that carries them (the Japanese one is annex H.3.1).
NAMES_BY_CHARSET = {
    "ISO_IR 100": "Müller^Jürgen",
    "ISO_IR 192": "Ångström^Søren=江戸^太郎",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
}

_SHAPES: dict[str, tuple[UID, int]] = {
    "CT": (CTImageStorage, 512),  # 525 KB
    "MR": (MRImageStorage, 128),  # 33 KB
}


@dataclass
class Study:
    """A study to be written: `series` series of `instances` instances each; other attributes are overridden by name."""

    modality: str = "CT"
    series: int = 1
    instances: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)
    transfer_syntax: UID = ExplicitVRLittleEndian
    uid: UID = field(default_factory=generate_uid)
    patient_id: str = field(default_factory=lambda: f"P{generate_uid(prefix='1.')[-12:]}")

    def datasets(self) -> Iterator[Dataset]:
        """Every instance, in order of series and instance number."""
        for series_number in range(1, self.series + 1):
            series_uid = generate_uid()
            for number in range(1, self.instances + 1):
                yield self._dataset(series_uid, series_number, number)

    def write(self, directory: Path) -> list[Path]:
        """Every instance as a Part 10 file `<SOPInstanceUID>.dcm`; the paths, in order."""
        directory.mkdir(parents=True, exist_ok=True)
        paths = []
        for ds in self.datasets():
            path = directory / f"{ds.SOPInstanceUID}.dcm"
            save(ds, path, self.transfer_syntax)
            paths.append(path)
        return paths

    def _dataset(self, series_uid: UID, series_number: int, number: int) -> Dataset:
        sop_class, side = _SHAPES[self.modality]
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SOPClassUID = sop_class
        ds.SOPInstanceUID = generate_uid()
        ds.StudyDate, ds.StudyTime = "20240229", "101500.25"
        ds.AccessionNumber = f"A{self.uid[-10:]}"
        ds.Modality = self.modality
        ds.StudyDescription = "Synthetic study"
        ds.PatientName = "Synthetic^Case"
        ds.PatientID = self.patient_id
        ds.PatientBirthDate, ds.PatientSex = "19700131", "O"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.uid, series_uid
        ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", series_number, number
        ds.ReferringPhysicianName = "Referrer^Anna"
        _add_pixels(ds, side, seed=number)
        for keyword, value in self.attributes.items():
            setattr(ds, keyword, value)
        return ds


def save(ds: Dataset, path: Path, transfer_syntax: UID = ExplicitVRLittleEndian) -> None:
    """Write a Part 10 file. The transfer syntax is a native, little endian one."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.save_as(path, enforce_file_format=True, implicit_vr=transfer_syntax == ImplicitVRLittleEndian, little_endian=True)


def _add_pixels(ds: Dataset, side: int, *, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 4096, size=(side, side), dtype=np.uint16)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = side
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.tobytes()
