"""pynetdicom as a print SCU: what a modality does to have a film (PS3.4 annex H)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom.association import Association

from tests.support import scu
from tests.support.dcmtk import Scp

GRAY, COLOR = UID("1.2.840.10008.5.1.1.9"), UID("1.2.840.10008.5.1.1.18")
SESSION, FILM = UID("1.2.840.10008.5.1.1.1"), UID("1.2.840.10008.5.1.1.2")
GRAY_BOX, COLOR_BOX = UID("1.2.840.10008.5.1.1.4"), UID("1.2.840.10008.5.1.1.4.1")
PRINTER, PRINTER_INSTANCE = UID("1.2.840.10008.5.1.1.16"), UID("1.2.840.10008.5.1.1.17")

Pixels = npt.NDArray[np.unsignedinteger[Any]]


class PrintScu:
    """An association on which films are printed.

    Attributes:
        session, film: the UIDs of the present ones.
        boxes: the UIDs of the film's image boxes.
    """

    def __init__(self, assoc: Association, meta: UID) -> None:
        self.assoc = assoc
        self.meta = meta
        self.session = self.film = UID("")
        self.boxes: list[UID] = []

    def open_session(self, **attributes: Any) -> int:
        """N-CREATE of a film session; the status."""
        self.session = generate_uid()
        ds = _dataset(attributes) if attributes else None  # of an empty one pynetdicom says that it follows, and sends nothing
        return self._status(self.assoc.send_n_create(ds, SESSION, self.session, meta_uid=self.meta))

    def open_film(self, display_format: str = "STANDARD\\1,1", **attributes: Any) -> int:
        """N-CREATE of a film box; the status."""
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = SESSION, self.session
        self.film = generate_uid()
        ds = _dataset({"ImageDisplayFormat": display_format, "ReferencedFilmSessionSequence": [reference], **attributes})
        status, answer = self.assoc.send_n_create(ds, FILM, self.film, meta_uid=self.meta)
        self.boxes = [item.ReferencedSOPInstanceUID for item in answer.ReferencedImageBoxSequence] if answer else []
        return self._status((status, None))

    def set_image(self, position: int, pixels: Pixels, *, image: Mapping[str, Any] | None = None, **attributes: Any) -> int:
        """N-SET of an image box; the status."""
        item, is_color = image_item(pixels, **(image or {})), pixels.ndim == 3
        sequence = "BasicColorImageSequence" if is_color else "BasicGrayscaleImageSequence"
        ds = _dataset({"ImageBoxPosition": position, sequence: [item], **attributes})
        box_class = COLOR_BOX if is_color else GRAY_BOX
        return self._status(self.assoc.send_n_set(ds, box_class, self.boxes[position - 1], meta_uid=self.meta))

    def print_film(self) -> int:
        """N-ACTION of the film box; the status."""
        return self._status(self.assoc.send_n_action(None, 1, FILM, self.film, meta_uid=self.meta))

    def print_session(self) -> int:
        """N-ACTION of the film session; the status."""
        return self._status(self.assoc.send_n_action(None, 1, SESSION, self.session, meta_uid=self.meta))

    def delete_film(self) -> int:
        """N-DELETE of the film box; the status."""
        return int(self.assoc.send_n_delete(FILM, self.film, meta_uid=self.meta).Status)

    def delete_session(self) -> int:
        """N-DELETE of the film session; the status."""
        return int(self.assoc.send_n_delete(SESSION, self.session, meta_uid=self.meta).Status)

    def printer(self) -> Dataset:
        """N-GET of the printer."""
        status, ds = self.assoc.send_n_get([], PRINTER, PRINTER_INSTANCE, meta_uid=self.meta)
        assert status.Status == 0x0000
        assert ds is not None
        return ds

    @staticmethod
    def _status(answer: tuple[Dataset, Dataset | None]) -> int:
        assert "Status" in answer[0], "the association was ended instead"
        return int(answer[0].Status)


def image_item(pixels: Pixels, **attributes: Any) -> Dataset:
    """The item of an image sequence; 8 bits of a byte, 12 of two."""
    wide, is_color = pixels.dtype.itemsize == 2, pixels.ndim == 3
    ds = Dataset()
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if is_color else (1, "MONOCHROME2")
    if is_color:
        ds.PlanarConfiguration = 1
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (16, 12, 11) if wide else (8, 8, 7)
    ds.PixelRepresentation = 0
    content = (np.moveaxis(pixels, -1, 0) if is_color else pixels).tobytes()
    ds.PixelData = content + b"\0" * (len(content) % 2)
    ds["PixelData"].VR = "OW" if wide else "OB"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@contextmanager
def printing(scp: Scp, *, color: bool = False, calling: str = "CT1") -> Iterator[PrintScu]:
    """An association with one of the two meta SOP classes."""
    meta = COLOR if color else GRAY
    with scu.association(scp, (meta, ExplicitVRLittleEndian), calling=calling) as assoc:
        yield PrintScu(assoc, meta)


def _dataset(attributes: Mapping[str, Any]) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds
