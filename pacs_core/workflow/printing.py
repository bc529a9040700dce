"""Print management: a film session, its films, their image boxes, and what may be asked of them (PS3.4 annex H). Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pacs_core.errors import ClassConflict, DuplicateInstance, EmptyFilmSession, InvalidAttributeValue, NotFound
from pacs_core.model import Header
from pacs_core.ports.printing import Area, Box, Image, Page, Picture, Resampling
from pacs_core.workflow import print_attributes as attributes
from pacs_core.workflow.film import SUCCESS, Fit, Wanted, fit, gray_of, layout, pixels, raster_of
from pacs_core.workflow.presentation_lut import Curve

META_GRAY, META_COLOR = "1.2.840.10008.5.1.1.9", "1.2.840.10008.5.1.1.18"
FILM_SESSION, FILM_BOX = "1.2.840.10008.5.1.1.1", "1.2.840.10008.5.1.1.2"
GRAY_BOX, COLOR_BOX = "1.2.840.10008.5.1.1.4", "1.2.840.10008.5.1.1.4.1"
PRINTER, PRINTER_INSTANCE = "1.2.840.10008.5.1.1.16", "1.2.840.10008.5.1.1.17"
PRESENTATION_LUT = "1.2.840.10008.5.1.1.23"
PRINT = 1  # the action type

# Which SOP classes a presentation context carries (PS3.4 H.3.2.2, H.3.3.2).
MEMBERS: Mapping[str, frozenset[str]] = {
    META_GRAY: frozenset({FILM_SESSION, FILM_BOX, GRAY_BOX, PRINTER}),
    META_COLOR: frozenset({FILM_SESSION, FILM_BOX, COLOR_BOX, PRINTER}),
    PRINTER: frozenset({PRINTER}),
    PRESENTATION_LUT: frozenset({PRESENTATION_LUT}),
}
BOX_CLASSES: Mapping[str, str] = {META_GRAY: GRAY_BOX, META_COLOR: COLOR_BOX}
IMAGE_SEQUENCES: Mapping[str, str] = {GRAY_BOX: "BasicGrayscaleImageSequence", COLOR_BOX: "BasicColorImageSequence"}

EMPTY_SESSION, EMPTY_FILM = 0xB602, 0xB603  # tables H.4-4 and H.4-9

_MOST_FILMS = 100
_MOST_CURVES = 100
_CURVES = "ReferencedPresentationLUTSequence"
_RESAMPLING = {"NONE": Resampling.NEAREST, "REPLICATE": Resampling.NEAREST, "CUBIC": Resampling.BICUBIC}


class Answer(NamedTuple):
    """How a request ends: success or a warning, and what the instance is now."""

    status: int
    attributes: Header


class Printing(NamedTuple):
    """What is to be printed: success or a warning, and the films, which are copies (H.4.1.2.4.3)."""

    status: int
    pages: tuple[Page, ...]


@dataclass(slots=True)
class _ImageBox:
    uid: str
    position: int
    area: Area
    attributes: Header = field(default_factory=lambda: attributes.initial(attributes.IMAGE_BOX))
    image: Image | None = None


@dataclass(slots=True)
class _Film:
    uid: str
    box_class: str
    attributes: Header
    width: int
    height: int
    boxes: Sequence[_ImageBox]

    def told(self, keyword: str, box: _ImageBox | None = None) -> str:
        """A value of an image box, or of the film where that has none."""
        return str((box.attributes.get(keyword) if box else "") or self.attributes.get(keyword, ""))


@dataclass(slots=True)
class _Session:
    uid: str
    attributes: Header
    films: list[_Film] = field(default_factory=list)


class FilmSession:
    """The film session of an association; there is at most one at a time (H.4.1.2.1.3).

    Methods raise RequestErrors, and then everything is as it was.

    Args:
        dpi: pixels of an inch of film.
    """

    def __init__(self, *, dpi: int) -> None:
        self._dpi = dpi
        self._session: _Session | None = None
        self._curves: dict[str, Curve] = {}

    @property
    def attributes(self) -> Header:
        """Those of the session. NotFound where there is none."""
        return self._open().attributes

    @property
    def files(self) -> frozenset[str]:
        """The files of all images that are set, and of presentation LUTs."""
        films = self._session.films if self._session else []
        images = {box.image.file for film in films for box in film.boxes if box.image}
        return frozenset(images | {curve.file for curve in self._curves.values() if curve.file})

    def add_curve(self, uid: str, curve: Curve) -> None:
        """N-CREATE of a presentation LUT, which belongs to the association (H.4.9.2.1)."""
        if uid in self._curves or len(self._curves) >= _MOST_CURVES:
            raise DuplicateInstance(f"there is such a presentation LUT already, or {_MOST_CURVES} of them")
        self._curves[uid] = curve

    def delete_curve(self, uid: str) -> None:
        """N-DELETE of a presentation LUT. What refers to it is as if it did not."""
        if self._curves.pop(uid, None) is None:
            raise NotFound("there is no such presentation LUT on this association")

    def create(self, uid: str, given: Header) -> Answer:
        """N-CREATE of the session."""
        if self._session is not None:
            raise DuplicateInstance("there is a film session on this association already")
        taken, status = attributes.settled(given, attributes.FILM_SESSION)
        self._session = _Session(uid, attributes.initial(attributes.FILM_SESSION) | taken)
        return Answer(status, self._session.attributes)

    def change(self, uid: str, given: Header) -> Answer:
        """N-SET of the session."""
        session = self._open(uid)
        taken, status = attributes.settled(given, attributes.FILM_SESSION)
        session.attributes = session.attributes | taken
        return Answer(status, session.attributes)

    def delete(self, uid: str) -> None:
        """N-DELETE of the session with everything in it."""
        self._open(uid)
        self._session = None

    def print_all(self, uid: str) -> Printing:
        """N-ACTION of the session. EmptyFilmSession."""
        session = self._open(uid)
        if not session.films:
            raise EmptyFilmSession("the film session has no film")
        return self._printing(session.films, EMPTY_SESSION)

    def create_film(self, uid: str, box_class: str, given: Header, box_uids: Sequence[str]) -> Answer:
        """N-CREATE of a film with its image boxes (H.4.2.2.1.3).

        Args:
            box_uids: of the image boxes: as many as `count_boxes` says.
        """
        session = self._open()
        if len(session.films) >= _MOST_FILMS or any(film.uid == uid for film in session.films):
            raise DuplicateInstance(f"there is such a film box already, or {_MOST_FILMS} of them")
        parent = attributes.item(given, "ReferencedFilmSessionSequence")
        if parent is None or parent.get("ReferencedSOPInstanceUID") != session.uid:
            raise InvalidAttributeValue("the film box is of another film session")
        taken, status = attributes.settled(given, attributes.FILM_BOX, required=(*_FILM_REQUIRED, _CURVES))
        required: Header = {keyword: given[keyword] for keyword in _FILM_REQUIRED}
        said = attributes.initial(attributes.FILM_BOX) | taken | required | self._referred(given)
        film = self._film(uid, box_class, said, box_uids)
        session.films.append(film)
        return Answer(status, film.attributes)

    def count_boxes(self, given: Header) -> int:
        """How many image boxes a film would have. MissingAttribute, MissingAttributeValue, InvalidAttributeValue."""
        return len(layout(attributes.text(given, "ImageDisplayFormat"), *self._raster(given), self._dpi))

    def change_film(self, uid: str, given: Header) -> Answer:
        """N-SET of the film that was created last."""
        film = self._last(uid)
        taken, status = attributes.settled(given, attributes.FILM_BOX_CHANGES, required=(_CURVES,))
        changed = film.attributes | taken | self._referred(given)
        _check_densities(changed)
        film.attributes = changed
        return Answer(status, film.attributes)

    def delete_film(self, uid: str) -> None:
        """N-DELETE of the film that was created last."""
        self._last(uid)
        self._open().films.pop()

    def print_film(self, uid: str) -> Printing:
        """N-ACTION of the film that was created last."""
        return self._printing([self._last(uid)], EMPTY_FILM)

    def set_image(self, uid: str, box_class: str, given: Header, file: str, length: int) -> Answer:
        """N-SET of an image box of the film that was created last: a new image, or none (H.4.3.1.2.1.3).

        Args:
            file: where the image's pixels are, and how many bytes.
        """
        film, box = self._box(uid, box_class)
        sequence = IMAGE_SEQUENCES[box_class]
        if attributes.text(given, "ImageBoxPosition") != str(box.position):
            raise InvalidAttributeValue(f"this image box has the position {box.position}")
        told = attributes.item(given, sequence)
        taken, status = attributes.settled(given, attributes.IMAGE_BOX, required=("ImageBoxPosition", sequence, _CURVES))
        image = attributes.image_of(told, file, length, is_color=box_class == COLOR_BOX) if told else None
        changed = _ImageBox(box.uid, box.position, box.area, box.attributes | taken | self._referred(given), image)
        _check_densities({keyword: film.told(keyword, changed) for keyword in ("MinDensity", "MaxDensity")})
        fitted = self._checked(film, changed, image).status if image else SUCCESS
        box.attributes, box.image = changed.attributes, image
        return Answer(max(status, fitted), {"ImageBoxPosition": str(box.position)} | box.attributes)

    def _open(self, uid: str | None = None) -> _Session:
        if self._session is None or uid not in (None, self._session.uid):
            raise NotFound("there is no such film session on this association")
        return self._session

    def _last(self, uid: str) -> _Film:
        """The film that was created last: the only one that may be touched (H.4.2.2.2.3, H.4.2.2.3, H.4.2.2.4.3)."""
        films = self._session.films if self._session else []
        if not films or films[-1].uid != uid:
            raise NotFound("the film box is not the one that was created last")
        return films[-1]

    def _box(self, uid: str, box_class: str) -> tuple[_Film, _ImageBox]:
        film = self._session.films[-1] if self._session and self._session.films else None
        box = next((box for box in film.boxes if box.uid == uid), None) if film else None
        if film is None or box is None:
            raise NotFound("the image box is none of the film box that was created last")
        if film.box_class != box_class:
            raise ClassConflict("the image box is of the other of the two image box classes")
        return film, box

    def _raster(self, said: Header) -> tuple[int, int]:
        return raster_of(str(said.get("FilmSizeID", "")), landscape=said.get("FilmOrientation") == "LANDSCAPE", dpi=self._dpi)

    def _film(self, uid: str, box_class: str, said: Header, box_uids: Sequence[str]) -> _Film:
        _check_densities(said)
        width, height = self._raster(said)
        areas = layout(str(said["ImageDisplayFormat"]), width, height, self._dpi)
        boxes = [_ImageBox(box_uid, number, area) for number, (box_uid, area) in enumerate(zip(box_uids, areas, strict=True), 1)]
        references: list[Header] = [{"ReferencedSOPClassUID": box_class, "ReferencedSOPInstanceUID": box.uid} for box in boxes]
        return _Film(uid, box_class, said | {"ReferencedImageBoxSequence": references}, width, height, boxes)

    def _referred(self, given: Header) -> Header:
        """The presentation LUT that is referred to, if there is one; an empty sequence refers to none any more."""
        references = given.get(_CURVES)
        if references is None:
            return {}
        if isinstance(references, list) and all(each.get("ReferencedSOPInstanceUID") in self._curves for each in references):
            return {_CURVES: references}
        raise InvalidAttributeValue("there is no such presentation LUT on this association")

    def _curve(self, film: _Film, box: _ImageBox, image: Image) -> str:
        """The file of the curve of an image: its own, or that of its film (H.4.3.1.2.1.1)."""
        references = box.attributes.get(_CURVES) or film.attributes.get(_CURVES)
        if not references or not isinstance(references, list) or film.box_class == COLOR_BOX:
            return ""
        curve = self._curves.get(str(references[0].get("ReferencedSOPInstanceUID")), Curve())
        if curve.entries not in (0, 1 << image.bits_stored):
            raise InvalidAttributeValue(f"a presentation LUT of {curve.entries} entries is none for an image of {image.bits_stored} bits")
        return curve.file

    def _checked(self, film: _Film, box: _ImageBox, image: Image) -> Fit:
        self._curve(film, box, image)
        return self._fit(film, box, image)

    def _fit(self, film: _Film, box: _ImageBox, image: Image) -> Fit:
        size = film.told("RequestedImageSize", box)
        wanted = Wanted(
            is_scaled=film.told("MagnificationType", box) != "NONE",
            width=pixels(float(size), self._dpi) if size else 0,
            behavior=film.told("RequestedDecimateCropBehavior", box),
        )
        return fit(image, box.area, wanted)

    def _printing(self, films: Sequence[_Film], empty: int) -> Printing:
        warnings = [SUCCESS]
        if any(all(box.image is None for box in film.boxes) for film in films):
            warnings.append(empty)
        warnings += [self._fit(film, box, box.image).status for film in films for box in film.boxes if box.image]
        return Printing(max(warnings), tuple(self._page(film) for film in films))

    def _page(self, film: _Film) -> Page:
        empty = gray_of(film.told("EmptyImageDensity"))
        return Page(
            width=film.width,
            height=film.height,
            dpi=self._dpi,
            is_color=film.box_class == COLOR_BOX,
            gray=gray_of(film.told("BorderDensity")),
            trim=film.told("Trim") == "YES",
            boxes=tuple(Box(box.area, empty, self._picture(film, box, box.image) if box.image else None) for box in film.boxes),
        )

    def _picture(self, film: _Film, box: _ImageBox, image: Image) -> Picture:
        fitted = self._fit(film, box, image)
        is_color = film.box_class == COLOR_BOX  # densities are of grayscale images only (table H.4-11)
        return Picture(
            image=image,
            crop=fitted.crop,
            target=fitted.target,
            resampling=_RESAMPLING.get(film.told("MagnificationType", box), Resampling.BILINEAR),
            inverted=image.inverted != (film.told("Polarity", box) == "REVERSE"),
            black=0 if is_color else gray_of(film.told("MaxDensity", box)),
            white=255 if is_color else gray_of(film.told("MinDensity", box)),
            curve=self._curve(film, box, image),
        )


_FILM_REQUIRED = ("ImageDisplayFormat", "ReferencedFilmSessionSequence")


def _check_densities(said: Header) -> None:
    if int(str(said["MinDensity"])) >= int(str(said["MaxDensity"])):
        raise InvalidAttributeValue("MinDensity is not below MaxDensity")
