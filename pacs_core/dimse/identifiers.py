"""Query identifiers and their answers, between bytes and the textual form of the model (PS3.4 C.4.1.1.3).

The one place where text meets a character set on the way in and out: an answer is encoded in the character set of
the question if that can hold it, else in UTF-8 (PS3.5 6.1.2, C.12.1.1.2).
"""

from collections.abc import Mapping
from io import BytesIO

from pydicom import Dataset
from pydicom.charset import convert_encodings, python_encoding
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID as PydicomUID

from pacs_core.dicom.attributes import LEVEL_OF, vr
from pacs_core.dicom.headers import data_set_of, element, header_of
from pacs_core.dicom.scan import scan
from pacs_core.errors import InvalidIdentifier, PacsError
from pacs_core.model import Header, Level, Query

_UNICODE = "ISO_IR 192"
# Attributes of an identifier that steer the query instead of matching anything.
_CONTROL = {"QueryRetrieveLevel", "SpecificCharacterSet", "RetrieveAETitle", "InstanceAvailability", "StorageMediaFileSetID"}


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


def answer(identifier: Dataset, found: Header, extra: Mapping[str, str]) -> Dataset:
    """The C-FIND response for one match: the attributes that were asked for, in sequences too (PS3.4 C.2.2.2.6).

    Args:
        found: everything that is known of the match.
        extra: attributes that every answer carries.
    """
    asked = Dataset()
    for each in identifier:
        if each.keyword not in _CONTROL:
            asked.add(each)
    ds = data_set_of(found, asked) if asked else Dataset()
    for keyword, value in extra.items():
        ds.add(element(keyword, vr(keyword), value))
    _declare_character_set(ds, identifier)
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
    for each in ds:
        if each.VR == "SQ":
            for item in each.value:
                texts += _texts(item)
        elif each.value is not None:
            values = each.value if isinstance(each.value, MultiValue | list) else [each.value]
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
