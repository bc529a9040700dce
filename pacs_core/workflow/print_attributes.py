"""The attributes of film sessions, film boxes and image boxes: what is taken, what it is without a value, what it becomes. Pure.

A value that is not supported becomes the default, with a warning; so does an attribute that is not (PS3.4 H.2.4).
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from pacs_core.errors import InvalidAttributeValue, MissingAttribute, MissingAttributeValue
from pacs_core.model import Header
from pacs_core.ports.printing import Image
from pacs_core.workflow.film import DARKEST, DEFAULT_SIZE, SUCCESS, size_of

UNKNOWN_ATTRIBUTE, OUT_OF_RANGE = 0x0107, 0x0116  # PS3.4 H.2.4
NO_MEMORY_ALLOCATION, DENSITY_OUT_OF_RANGE = 0xB600, 0xB605  # tables H.4.1.2.1.2-1 and H.4.2.2.1.2-1

_MOST_COPIES = 99
_MOST_PIXELS = 65_535  # rows or columns
_LONGEST_SIDE = 10_000  # mm of an image on film
_MOST_DIGITS = 10
_MOST_STRETCHED = 100  # times as high as wide that a pixel is at most, or the other way round


class Attribute(NamedTuple):
    """One that is supported.

    Attributes:
        initial: its value where nobody has told one; "" for none.
        settle: the value that a told one becomes, and a warning or SUCCESS.
    """

    initial: str
    settle: Callable[[str], tuple[str, int]]


def _checked(initial: str, is_supported: Callable[[str], bool]) -> Attribute:
    return Attribute(initial, lambda text: (text, SUCCESS) if is_supported(text) else (initial, OUT_OF_RANGE))


def _one_of(initial: str, *others: str) -> Attribute:
    return _checked(initial, lambda text: text in (initial, *others))


def _any(initial: str = "") -> Attribute:
    return _checked(initial, lambda _: True)


def _density(initial: str, unsupported: int) -> Attribute:
    """Hundredths of optical density. Beyond what we have it is the last that we have."""

    def settle(text: str) -> tuple[str, int]:
        if not _is_number(text):
            return initial, OUT_OF_RANGE
        return (text, SUCCESS) if int(text) <= DARKEST else (str(unsupported), DENSITY_OUT_OF_RANGE)

    return Attribute(initial, settle)


def _is_number(text: str) -> bool:
    """A whole number of a size that one can reckon with."""
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def _is_area_density(text: str) -> bool:
    return text in ("BLACK", "WHITE") or (_is_number(text) and int(text) <= DARKEST)


def _is_copies(text: str) -> bool:
    return _is_number(text) and 1 <= int(text) <= _MOST_COPIES


def _is_length(text: str) -> bool:
    try:
        return 0 < float(text) <= _LONGEST_SIDE
    except ValueError:
        return False


# PS3.4 table H.4-2
FILM_SESSION: Mapping[str, Attribute] = {
    "SpecificCharacterSet": _any(),
    "NumberOfCopies": _checked("1", _is_copies),
    "PrintPriority": _one_of("MED", "HIGH", "LOW"),
    "MediumType": _any("PAPER"),
    "FilmDestination": _any("MAGAZINE"),
    "FilmSessionLabel": _any(),
    "MemoryAllocation": Attribute("", lambda _: ("", NO_MEMORY_ALLOCATION)),
    "OwnerID": _any(),
}

# Table H.4-7. What smooths and configures is a matter of each printer, and light one of films: anything is taken, nothing has an effect.
FILM_BOX_CHANGES: Mapping[str, Attribute] = {
    "SpecificCharacterSet": _any(),
    "MagnificationType": _one_of("BILINEAR", "CUBIC", "REPLICATE", "NONE"),
    "SmoothingType": _any(),
    "BorderDensity": _checked("BLACK", _is_area_density),
    "EmptyImageDensity": _checked("BLACK", _is_area_density),
    "MinDensity": _density("0", 0),
    "MaxDensity": _density(str(DARKEST), DARKEST),
    "Trim": _one_of("NO", "YES"),
    "Illumination": _any(),
    "ReflectedAmbientLight": _any(),
    "ConfigurationInformation": _any(),
}

# Table H.4-6, without what is required; a film's size and orientation stay as they are.
FILM_BOX: Mapping[str, Attribute] = {
    **FILM_BOX_CHANGES,
    "FilmOrientation": _one_of("PORTRAIT", "LANDSCAPE"),
    "FilmSizeID": _checked(DEFAULT_SIZE, lambda text: size_of(text) is not None),
    "RequestedResolutionID": _one_of("STANDARD"),
}

# Tables H.4-10 and H.4-11, without what is required. What has no value is as the film box has it.
IMAGE_BOX: Mapping[str, Attribute] = {
    "SpecificCharacterSet": _any(),
    "Polarity": _one_of("NORMAL", "REVERSE"),
    "MagnificationType": _one_of("", "BILINEAR", "CUBIC", "REPLICATE", "NONE"),
    "SmoothingType": _any(),
    "MinDensity": _density("", 0),
    "MaxDensity": _density("", DARKEST),
    "ConfigurationInformation": _any(),
    "RequestedImageSize": _checked("", _is_length),
    "RequestedDecimateCropBehavior": _one_of("", "DECIMATE", "CROP", "FAIL"),
}

_IMAGE = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


def initial(table: Mapping[str, Attribute]) -> Header:
    """What an instance says of which nothing was told."""
    return {keyword: attribute.initial for keyword, attribute in table.items() if attribute.initial}


def settled(given: Header, table: Mapping[str, Attribute], *, required: Collection[str] = ()) -> tuple[Header, int]:
    """What becomes of the attributes that were told, and the gravest warning. Those that are required are somebody else's to judge."""
    taken: Header = {}
    warnings = [SUCCESS]
    for keyword, value in given.items():
        if keyword in required:
            continue
        if keyword not in table or not isinstance(value, str):
            warnings.append(UNKNOWN_ATTRIBUTE)
            continue
        taken[keyword], warning = table[keyword].settle(value) if value else (table[keyword].initial, SUCCESS)
        warnings.append(warning)
    return taken, max(warnings)


def text(given: Header, keyword: str) -> str:
    """A value that must be there. MissingAttribute, MissingAttributeValue."""
    value = given.get(keyword)
    if value is None:
        raise MissingAttribute(f"printing needs {keyword}")
    if not value or not isinstance(value, str):
        raise MissingAttributeValue(f"printing needs a value of {keyword}")
    return value


def item(given: Header, keyword: str) -> Header | None:
    """The first item of a sequence that must be there; None where it has none. MissingAttribute."""
    value = given.get(keyword)
    if value is None:
        raise MissingAttribute(f"printing needs {keyword}")
    return value[0] if value and isinstance(value, list) else None


def image_of(given: Header, file: str, length: int, *, is_color: bool) -> Image:
    """The image of an item of a Basic Grayscale or Color Image Sequence whose pixel data has so many bytes (PS3.3 table C.13-5).

    MissingAttribute, MissingAttributeValue; InvalidAttributeValue for what is no such image.
    """
    values = {keyword: text(given, keyword) for keyword in (*_IMAGE, *(["PlanarConfiguration"] if is_color else []))}
    interpretation = values.pop("PhotometricInterpretation")
    if not all(_is_number(value) for value in values.values()):
        raise InvalidAttributeValue("an attribute of an image to be printed is no number")
    number = {keyword: int(value) for keyword, value in values.items()}
    image = Image(
        file=file,
        rows=number["Rows"],
        columns=number["Columns"],
        samples=number["SamplesPerPixel"],
        bits_allocated=number["BitsAllocated"],
        bits_stored=number["BitsStored"],
        planar=number.get("PlanarConfiguration") == 1,
        inverted=interpretation == "MONOCHROME1",
        aspect=_aspect(given),
    )
    _check(image, interpretation, number, length, is_color=is_color)
    return image


def _check(image: Image, interpretation: str, number: Mapping[str, int], length: int, *, is_color: bool) -> None:
    interpretations = ("RGB",) if is_color else ("MONOCHROME1", "MONOCHROME2")
    checks = {
        "PhotometricInterpretation": interpretation in interpretations,
        "SamplesPerPixel": image.samples == (3 if is_color else 1),
        "Rows and Columns": 0 < image.rows <= _MOST_PIXELS and 0 < image.columns <= _MOST_PIXELS,
        "BitsAllocated": image.bits_allocated == 8 or (image.bits_allocated == 16 and not is_color),
        "BitsStored": 0 < image.bits_stored <= image.bits_allocated,
        "HighBit": number["HighBit"] == image.bits_stored - 1,
        "PixelRepresentation": number["PixelRepresentation"] == 0,
        "PixelData": length >= image.rows * image.columns * image.samples * image.bits_allocated // 8,
    }
    if wrong := [keyword for keyword, is_right in checks.items() if not is_right]:
        raise InvalidAttributeValue(f"{', '.join(wrong)}: not an image that can be printed")


def _aspect(given: Header) -> float:
    """Pixel Aspect Ratio is the vertical size of a pixel and its horizontal one."""
    ratio = given.get("PixelAspectRatio") or "1\\1"
    vertical, _, horizontal = ratio.partition("\\") if isinstance(ratio, str) else ("", "", "")
    if not (_is_number(vertical) and _is_number(horizontal) and int(vertical) and int(horizontal)):
        raise InvalidAttributeValue("PixelAspectRatio is not two positive numbers")
    aspect = int(vertical) / int(horizontal)
    if not 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED:
        raise InvalidAttributeValue(f"PixelAspectRatio is beyond 1 to {_MOST_STRETCHED}")
    return aspect
