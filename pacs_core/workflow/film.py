"""A film as a raster: its size, where its images go, how they fit, and how dark it is. Pure. (PS3.3 C.13.3, C.13.5; PS3.14.)"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pacs_core.errors import ImageTooLarge, InvalidAttributeValue
from pacs_core.ports.printing import Area, Image

DEFAULT_SIZE = "14INX17IN"
DARKEST = 320  # hundredths of optical density: our blackest black; our white has none

SUCCESS = 0x0000
DEMAGNIFIED, CROPPED, DECIMATED = 0xB604, 0xB609, 0xB60A  # PS3.4 table H.4.3.1.2.1.2-1

_MM_PER_INCH = 25.4
_SIZES = {"A4": (210.0, 297.0), "A3": (297.0, 420.0), "10INX14IN": (257.0, 364.0)}  # mm; the last one as PS3.3 C.13.3 has it
_DEFAULT = (14 * _MM_PER_INCH, 17 * _MM_PER_INCH)
_SIZE = re.compile(r"(\d+)(?:_(\d))?(IN|CM)X(\d+)(?:_(\d))?(IN|CM)")
_SHORTEST, _LONGEST = 50.0, 1400.0  # mm
MOST_PIXELS = 120_000_000  # of a page, which is rendered in memory: 14 by 17 inches have 86 million at 600 dpi

_MARGIN, _GAP = 5.0, 2.0  # mm around all images, and between them
_MOST_BOXES = 100
_FORMAT = re.compile(r"(STANDARD|ROW|COL)\\(\d{1,3}(?:,\d{1,3})*)")

# PS3.4 H.4.2.2.1.1: what is recommended for transmissive film, in cd/m2.
_ILLUMINATION, _AMBIENT = 2000.0, 10.0
# PS3.14 7.1: the JND index as a polynomial of the logarithm of the luminance, lowest power first.
_JND = (71.498068, 94.593053, 41.912053, 9.8247004, 0.28175407, -1.1878455, -0.18014349, 0.14710899, -0.017046845)


def size_of(film_size: str) -> tuple[float, float] | None:
    """Width and height in mm of a Film Size ID in portrait; None for one that is none, or that no film has."""
    size = _SIZES.get(film_size)
    if size is None and (found := _SIZE.fullmatch(film_size)):
        size = _mm(*found.group(1, 2, 3)), _mm(*found.group(4, 5, 6))
    return size if size and all(_SHORTEST <= side <= _LONGEST for side in size) else None


def raster_of(film_size: str, *, landscape: bool, dpi: int) -> tuple[int, int]:
    """Columns and rows of a film. What `size_of` does not know is as large as the default.

    InvalidAttributeValue for one that would have too many of them.
    """
    width, height = (pixels(side, dpi) for side in size_of(film_size) or _DEFAULT)
    if width * height > MOST_PIXELS:
        raise InvalidAttributeValue(f"a film of {film_size} is too large for us at {dpi} dpi")
    return (height, width) if landscape else (width, height)


def pixels(mm: float, dpi: int) -> int:
    """A length on film in whole pixels."""
    return round(mm * dpi / _MM_PER_INCH)


def layout(display_format: str, width: int, height: int, dpi: int) -> Sequence[Area]:
    """Where the images of an Image Display Format go, in the order of Image Box Position (PS3.3 C.13.5.1): COL counts down its columns.

    InvalidAttributeValue for one that we do not have: slides and custom ones are a printer's own.
    """
    found = _FORMAT.fullmatch(display_format)
    counts = [int(count) for count in found[2].split(",")] if found else []
    if found and found[1] == "STANDARD":
        counts = [counts[0]] * counts[1] if len(counts) == 2 else []
    if not found or not counts or not all(counts) or sum(counts) > _MOST_BOXES:
        raise InvalidAttributeValue(f"Image Display Format {display_format[:40]!r} is none that we print")
    margin, gap = pixels(_MARGIN, dpi), pixels(_GAP, dpi)
    if found[1] == "COL":
        areas = [Area(each.top, each.left, each.height, each.width) for each in _rows(counts, height, width, margin, gap)]
    else:
        areas = _rows(counts, width, height, margin, gap)
    if min(min(each.width, each.height) for each in areas) < 1:
        raise InvalidAttributeValue(f"Image Display Format {display_format[:40]!r} leaves no room for images on such a film")
    return areas


@dataclass(frozen=True, slots=True)
class Wanted:
    """How an image is to be fitted.

    Attributes:
        is_scaled: whether it may be magnified or demagnified at all (Magnification Type is not NONE).
        width: Requested Image Size in pixels of the film; 0 where nothing was requested: it fills its box.
        behavior: Requested Decimate/Crop Behavior; "" where nothing was requested.
    """

    is_scaled: bool
    width: int = 0
    behavior: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image fits: what is shown of it, where, and the warning that goes with it, or SUCCESS."""

    crop: Area
    target: Area
    status: int


def fit(image: Image, box: Area, wanted: Wanted) -> Fit:
    """Place an image in the middle of a box. ImageTooLarge where it does not fit and must not be made to."""
    natural: tuple[float, float] = (image.columns, image.rows * image.aspect)
    size = natural
    if wanted.is_scaled and wanted.width:
        size = (wanted.width, wanted.width * natural[1] / natural[0])
    whole = Area(0, 0, image.columns, image.rows)
    if _rounded(size[0]) <= box.width and _rounded(size[1]) <= box.height:
        grown = size if wanted.width or not wanted.is_scaled else _filling(size, box)
        return Fit(whole, _centred(*grown, box), SUCCESS)
    if wanted.behavior == "CROP":
        shown = min(size[0], box.width), min(size[1], box.height)
        part = _centred(image.columns * shown[0] / size[0], image.rows * shown[1] / size[1], whole)
        return Fit(part, _centred(*shown, box), CROPPED)
    # DECIMATE where nothing may be magnified is to fail (PS3.4 H.4.3.1.2.1.3); where nothing is requested we decimate too.
    if wanted.behavior == "FAIL" or not wanted.is_scaled:
        raise ImageTooLarge("the image is larger than its image box")
    return Fit(whole, _centred(*_filling(size, box), box), DECIMATED if wanted.behavior == "DECIMATE" else DEMAGNIFIED)


def gray_of(density: str) -> int:
    """The gray from 0 to 255 of a density: BLACK, WHITE, or hundredths of optical density, in steps that look even (PS3.14)."""
    if not density.isdecimal():
        return 0 if density == "BLACK" else 255
    index = _jnd_index(min(int(density), DARKEST))
    return round(255 * (index - _jnd_index(DARKEST)) / (_jnd_index(0) - _jnd_index(DARKEST)))


@lru_cache(maxsize=512)
def _jnd_index(density: int) -> float:
    log = math.log10(_AMBIENT + _ILLUMINATION * 10 ** (-density / 100))
    return sum(coefficient * log**power for power, coefficient in enumerate(_JND))


def _mm(whole: str, tenths: str | None, unit: str) -> float:
    return float(f"{whole}.{tenths or 0}") * (_MM_PER_INCH if unit == "IN" else 10)


def _rows(counts: Sequence[int], width: int, height: int, margin: int, gap: int) -> list[Area]:
    """Rows of equal height, each with its number of images of equal width."""
    rows = zip(counts, _spans(len(counts), height, margin, gap), strict=True)
    return [Area(left, top, across, down) for count, (top, down) in rows for left, across in _spans(count, width, margin, gap)]


def _spans(count: int, total: int, margin: int, gap: int) -> Sequence[tuple[int, int]]:
    room = total - 2 * margin - (count - 1) * gap
    ends = [room * number // count for number in range(count + 1)]
    return [(margin + number * gap + ends[number], ends[number + 1] - ends[number]) for number in range(count)]


def _filling(size: tuple[float, float], box: Area) -> tuple[float, float]:
    scale = min(box.width / size[0], box.height / size[1])
    return size[0] * scale, size[1] * scale


def _centred(width: float, height: float, box: Area) -> Area:
    across, down = min(_rounded(width), box.width), min(_rounded(height), box.height)
    return Area(box.left + (box.width - across) // 2, box.top + (box.height - down) // 2, across, down)


def _rounded(length: float) -> int:
    return max(round(length), 1)
