"""Prints on a peer, as SCU of print management (PS3.4 annex H)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from pydicom import Dataset

from pacs_core.dimse import client
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.sending import is_warning
from pacs_core.imaging.preformatted import Preformatted
from pacs_core.model import new_uid
from pacs_core.workflow.printing import (
    BOX_CLASSES,
    FILM_BOX,
    FILM_SESSION,
    IMAGE_SEQUENCES,
    META_COLOR,
    META_GRAY,
    PRINT,
)


@dataclass(frozen=True, slots=True)
class Wish:
    """How it is to be printed. What is "" is left to the printer.

    Attributes:
        columns, rows: of images on a film.
    """

    columns: int = 1
    rows: int = 1
    copies: int = 1
    film_size: str = ""
    orientation: str = ""
    medium: str = ""
    label: str = ""
    magnification: str = ""


@dataclass(frozen=True, slots=True)
class PrintedFilm:
    """A film that the printer has taken: how many images it has, and what the printer has warned of, as statuses."""

    images: int
    warnings: tuple[int, ...]


def print_films(assoc: Association, images: Iterable[Preformatted], wish: Wish, *, color: bool) -> Iterator[PrintedFilm]:
    """Print images in their order, film by film; only the images of one are in memory.

    PeerUnavailable with the status where the printer refuses anything.
    """
    printer = _Printer(assoc, META_COLOR if color else META_GRAY)
    session = new_uid()
    character_set = "" if wish.label.isascii() else "ISO_IR 192"
    told = {
        "SpecificCharacterSet": character_set,
        "NumberOfCopies": wish.copies,
        "MediumType": wish.medium,
        "FilmSessionLabel": wish.label,
    }
    printer.ask(CommandField.N_CREATE, FILM_SESSION, session, _dataset(told))
    remaining = iter(images)
    while film := list(islice(remaining, wish.columns * wish.rows)):
        yield PrintedFilm(len(film), _print_film(printer, session, film, wish))
    printer.ask(CommandField.N_DELETE, FILM_SESSION, session)


def _print_film(printer: "_Printer", session: str, images: list[Preformatted], wish: Wish) -> tuple[int, ...]:
    uid, parent = new_uid(), Dataset()
    parent.ReferencedSOPClassUID, parent.ReferencedSOPInstanceUID = FILM_SESSION, session
    told = {
        "ImageDisplayFormat": f"STANDARD\\{wish.columns},{wish.rows}",
        "FilmOrientation": wish.orientation,
        "FilmSizeID": wish.film_size,
        "MagnificationType": wish.magnification,
        "ReferencedFilmSessionSequence": [parent],
    }
    created = printer.ask(CommandField.N_CREATE, FILM_BOX, uid, _dataset(told))
    boxes = [str(item.ReferencedSOPInstanceUID) for item in created.ReferencedImageBoxSequence]
    for position, (box, image) in enumerate(zip(boxes, images, strict=False), 1):  # the last film may have boxes left
        printer.ask(CommandField.N_SET, BOX_CLASSES[printer.meta], box, _image_box(printer.meta, position, image))
    printer.ask(CommandField.N_ACTION, FILM_BOX, uid, type_id=PRINT)
    printer.ask(CommandField.N_DELETE, FILM_BOX, uid)
    return printer.take_warnings()


class _Printer:
    """The printer at the other end of an association."""

    def __init__(self, assoc: Association, meta: str) -> None:
        self.meta = meta
        self._assoc = assoc
        self._warnings: list[int] = []

    def ask(self, operation: CommandField, sop_class: str, uid: str, ds: Dataset | None = None, *, type_id: int = 0) -> Dataset:
        """A request; the attributes of its answer. PeerUnavailable with the status if it is refused."""
        answer, attributes = client.normalized(self._assoc, sop_class, operation, uid, ds, type_id=type_id, context_class=self.meta)
        self._note(answer)
        return attributes

    def take_warnings(self) -> tuple[int, ...]:
        """What was warned of since the last call."""
        warnings, self._warnings = tuple(self._warnings), []
        return warnings

    def _note(self, answer: Command) -> None:
        if answer.Status is not None and is_warning(answer.Status):
            self._warnings.append(answer.Status)
        else:
            client.check_final(self._assoc, answer)


def _dataset(told: Mapping[str, object]) -> Dataset:
    ds = Dataset()
    for keyword, value in told.items():
        if value:
            setattr(ds, keyword, value)
    return ds


def _image_box(meta: str, position: int, image: Preformatted) -> Dataset:
    item = Dataset()
    item.SamplesPerPixel = 3 if image.is_color else 1
    item.PhotometricInterpretation = "RGB" if image.is_color else "MONOCHROME1" if image.is_inverted else "MONOCHROME2"
    if image.is_color:
        item.PlanarConfiguration = 1
    item.Rows, item.Columns = image.rows, image.columns
    if image.aspect != (1, 1):
        item.PixelAspectRatio = list(image.aspect)
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 8, 8, 7, 0
    item.PixelData = image.pixels + b"\0" * (len(image.pixels) % 2)
    item["PixelData"].VR = "OB"
    ds = Dataset()
    ds.ImageBoxPosition = position
    setattr(ds, IMAGE_SEQUENCES[BOX_CLASSES[meta]], [item])
    return ds
