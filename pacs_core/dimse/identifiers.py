"""Query identifiers and their answers, between bytes and the textual form of the model (PS3.4 C.4.1.1.3).

The one place where text meets a character set on the way in and out: an answer is encoded in the character set of
the question if that can hold it, else in UTF-8 (PS3.5 6.1.2, C.12.1.1.2).
"""

import struct
from collections.abc import Mapping
from io import BytesIO

from pydicom import Dataset, config
from pydicom.charset import convert_encodings, python_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID as PydicomUID

from pacs_core.dicom.attributes import LEVEL_OF, vr
from pacs_core.dicom.scan import scan
from pacs_core.errors import InvalidIdentifier, PacsError
from pacs_core.model import Header, HeaderValue, Level, Query

_UNICODE = "ISO_IR 192"
# Attributes of an identifier that steer the query instead of matching anything.
_CONTROL = {"QueryRetrieveLevel", "SpecificCharacterSet", "RetrieveAETitle", "InstanceAvailability", "StorageMediaFileSetID"}


# VRs whose values are binary numbers, and how they are packed.
_BINARY: Mapping[str, str] = {
    "US": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "UV": "Q",
    "SV": "q",
    "FL": "f",
    "FD": "d",
    "US or SS": "H",
}


class UnencodableDataSet(PacsError):
    """An answer that cannot be put into bytes. C000: unable to process."""


def decode(data: bytes, transfer_syntax: str) -> Dataset:
    """The data set of an identifier; InvalidIdentifier if it is not one."""
    syntax = PydicomUID(transfer_syntax)
    try:
        scan(data, transfer_syntax)  # pydicom reads what is cut short as far as it goes
        ds = read_dataset(BytesIO(data), syntax.is_implicit_VR, syntax.is_little_endian)
        ds.decode()
        return ds
    except Exception as exc:  # pydicom raises whatever malformed bytes lead to
        raise InvalidIdentifier(f"the identifier cannot be read: {type(exc).__name__}") from exc


def encode(ds: Dataset, transfer_syntax: str) -> bytes:
    """The bytes of a data set in an uncompressed transfer syntax."""
    syntax = PydicomUID(transfer_syntax)
    fp = DicomBytesIO()
    fp.is_implicit_VR, fp.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    try:
        write_dataset(fp, ds)
    except Exception as exc:  # pydicom raises whatever a value that does not suit its VR leads to
        raise UnencodableDataSet(f"a data set cannot be encoded: {type(exc).__name__}") from exc
    return bytes(fp.getvalue())


def query_of(identifier: Dataset, levels: tuple[Level, ...], *, combined_datetime: bool = False, fuzzy_names: bool = False) -> Query:
    """The query that an identifier states.

    Args:
        levels: those of the information model (Patient Root has all four, Study Root no PATIENT).
    """
    text = str(identifier.get("QueryRetrieveLevel", "") or "").strip()
    if text not in {str(level) for level in levels}:
        raise InvalidIdentifier(f"Query/Retrieve Level {text!r}; allowed are {', '.join(levels)}")
    keys = {keyword: value for keyword, value in header_of(identifier).items() if keyword not in _CONTROL}
    return Query(Level(text), keys, combined_datetime, fuzzy_names)


def header_of(ds: Dataset) -> Header:
    """A data set in textual form. Private and unknown attributes are left out."""
    return {element.keyword: _text_of(element) for element in ds if element.keyword and element.tag.element != 0}


def _text_of(element: DataElement) -> HeaderValue:
    if element.VR == "SQ":
        return [header_of(item) for item in element.value]
    value = element.value
    if value is None:
        return ""
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return "\\".join(_strip(str(v), element.VR) for v in values)


def _strip(text: str, value_representation: str) -> str:
    # Leading spaces are significant in these (PS3.5 table 6.2-1).
    return text.rstrip(" \0") if value_representation in ("ST", "LT", "UT", "UC") else text.strip(" \0")


def answer(identifier: Dataset, level: Level, found: Header, extra: Mapping[str, str]) -> Dataset:
    """The C-FIND response for one match: the attributes that were asked for, and the level's unique key.

    Args:
        found: everything that is known of the match.
        extra: attributes that every answer carries.
    """
    ds = Dataset()
    for element in identifier:
        keyword = element.keyword
        if not keyword or keyword in _CONTROL or element.tag.element == 0:
            continue
        if element.VR == "SQ":
            ds.add(DataElement(element.tag, "SQ", _items(element, found.get(keyword, []))))
        else:
            ds.add(_element(element.tag, element.VR, _value(found.get(keyword, ""))))
    for keyword, value in {level.key: _value(found.get(level.key, "")), "QueryRetrieveLevel": str(level), **extra}.items():
        ds.add(_element(keyword, vr(keyword), value))
    _declare_character_set(ds, identifier)
    return ds


def _element(tag: int | str, value_representation: str, value: str | list[str]) -> DataElement:
    """An element that holds what was stored, valid or not; empty where the VR has no way to hold it."""
    try:
        return DataElement(tag, value_representation, _typed(value_representation, value), validation_mode=config.IGNORE)
    except (ValueError, OverflowError):
        return DataElement(tag, value_representation, None)


def _typed(value_representation: str, value: str | list[str]) -> object:
    packed = _BINARY.get(value_representation)
    if packed is None or not value:
        return value or None
    return [_number(packed, v) for v in value] if isinstance(value, list) else _number(packed, value)


def _number(packed: str, text: str) -> int | float:
    """A number that its VR can hold; ValueError or OverflowError otherwise."""
    number = float(text) if packed in "fd" else int(text)
    try:
        struct.pack(packed, number)
    except struct.error as exc:
        raise ValueError(f"{number} does not fit") from exc
    return number


def _value(value: HeaderValue) -> str | list[str]:
    text = value if isinstance(value, str) else ""
    return text.split("\\") if "\\" in text else text


def _items(asked: DataElement, found: HeaderValue) -> list[Dataset]:
    """The items of a sequence, cut down to the attributes that the identifier's item asks for (PS3.4 C.2.2.2.6)."""
    wanted = {e.keyword for item in asked.value for e in item if e.keyword}
    return [_item(header, wanted) for header in found] if isinstance(found, list) else []


def _item(header: Header, wanted: set[str]) -> Dataset:
    ds = Dataset()
    for keyword, value in header.items():
        tag = tag_for_keyword(keyword)
        if tag is None or (wanted and keyword not in wanted):
            continue
        if isinstance(value, list):
            ds.add(DataElement(tag, "SQ", [_item(nested, set()) for nested in value]))
        else:
            ds.add(_element(tag, vr(keyword), _value(value)))
    return ds


def _declare_character_set(ds: Dataset, identifier: Dataset) -> None:
    texts = list(_texts(ds))
    if all(text.isascii() for text in texts):
        return
    asked = identifier.get("SpecificCharacterSet")
    names = [str(name or "") for name in asked] if isinstance(asked, MultiValue | list) else [str(asked or "")]
    usable = any(names) and _is_well_formed(names) and all(_encodable(text, names) for text in texts)
    ds.SpecificCharacterSet = names if usable else _UNICODE


def _texts(ds: Dataset) -> list[str]:
    texts: list[str] = []
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                texts += _texts(item)
        elif element.value is not None:
            values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
            texts += [str(value) for value in values]
    return texts


def _is_well_formed(names: list[str]) -> bool:
    """A single character set, or code extensions throughout (PS3.3 C.12.1.1.2); and one that pydicom writes correctly."""
    extensions = all(name.startswith("ISO 2022 ") for name in names[1:]) and (not names[0] or names[0].startswith("ISO"))
    combinable = len(names) == 1 or (extensions and not names[0].startswith("ISO_IR"))
    return combinable and "ISO 2022 IR 58" not in names  # its escape sequences would be missing


def _encodable(text: str, names: list[str]) -> bool:
    """Whether a character set, with its code extensions, holds every character of a text."""
    if not all(name in python_encoding for name in names):
        return False
    encodings = convert_encodings(names)
    return all(any(_holds(encoding, character) for encoding in encodings) for character in set(text) if not character.isascii())


def _holds(encoding: str, character: str) -> bool:
    if encoding == "iso8859":  # pydicom's name for the default repertoire, which is ASCII (PS3.5 6.1.1)
        return False
    if encoding == "shift_jis":  # stands for ISO_IR 13, which has the half-width katakana only
        return "\uff61" <= character <= "\uff9f"
    try:
        character.encode(encoding)
    except UnicodeError:
        return False
    return True


def unsupported(identifier: Dataset) -> bool:
    """Whether an identifier has a key that is neither matched nor returned (status FF01, PS3.4 C.4.1.1.4)."""
    return any(e.keyword not in LEVEL_OF and e.keyword not in _CONTROL for e in identifier if e.tag.element != 0)
