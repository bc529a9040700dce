"""Values of data elements as Unicode text: the form in which the archive indexes, matches and answers them.

The tables are pydicom's. Its functions are not used here because they warn about every odd value, and a warning for
each of a million images of one modality helps nobody: what cannot be decoded becomes U+FFFD.
"""

import re
import struct
from collections.abc import Sequence
from functools import lru_cache

from pydicom.charset import CODES_TO_ENCODINGS, STAND_ALONE_ENCODINGS, default_encoding, handled_encodings, python_encoding

_ESC = b"\x1b"
_FRAGMENT = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_TERM_SPELLING = re.compile(r"ISO[ _-]?(?:(2022)[ _-]?)?(IR[ _-]?)?(\d+)")

# Delimiters that reset code extensions to the first character set (PS3.5 6.1.2.5.3).
_TEXT_DELIMITERS = re.compile(rb"[\r\n\t\f]")
_VALUE_DELIMITERS = re.compile(rb"[\\\r\n\t\f]")
_NAME_DELIMITERS = re.compile(rb"[\^=\\\r\n\t\f]")

_CHARSET_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_ASCII_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_ONE_VALUE_VRS = frozenset({"LT", "ST", "UT", "UR"})  # a backslash is a character like any other, leading spaces count
_DELIMITERS = {"PN": _NAME_DELIMITERS, **dict.fromkeys(_ONE_VALUE_VRS, _TEXT_DELIMITERS)}
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}

TEXTUAL_VRS = _CHARSET_VRS | _ASCII_VRS | _NUMBERS.keys() | {"AT"}

Encodings = tuple[str, ...]
DEFAULT_ENCODINGS: Encodings = (default_encoding,)

# Codecs that take escape sequences themselves. pydicom counts that of ISO 2022 IR 58 among them, but it is plain GB2312.
_ESCAPE_READERS = frozenset(handled_encodings) - {python_encoding["ISO 2022 IR 58"]}


def encodings_of(value: bytes) -> Encodings:
    """The Python codecs for the raw value of SpecificCharacterSet (PS3.3 C.12.1.1.2); unknown terms count as Latin-1."""
    return _encodings_of(value.decode("latin-1"))


@lru_cache(maxsize=256)
def _encodings_of(value: str) -> Encodings:
    terms = [term.strip(" \0") for term in value.split("\\")]
    codecs = [_codec(term) for term in terms]
    if terms[0] in STAND_ALONE_ENCODINGS:
        return (codecs[0],)
    return tuple(codec for index, codec in enumerate(codecs) if not index or terms[index] not in STAND_ALONE_ENCODINGS)


def _codec(term: str) -> str:
    known = python_encoding.get(term)
    if known is None and (spelling := _TERM_SPELLING.fullmatch(term.upper())):
        extension, _, number = spelling.groups()
        known = python_encoding.get(f"ISO 2022 IR {number}" if extension else f"ISO_IR {number}")
    if known is None and term.upper().replace("-", "") == "UTF8":
        known = python_encoding["ISO_IR 192"]
    return known or default_encoding


def value_text(vr: str, value: bytes, *, little_endian: bool, encodings: Sequence[str] = DEFAULT_ENCODINGS) -> str:
    """One element's value as text: values joined by a backslash, padding removed, numbers in decimal.

    `vr` must be one of TEXTUAL_VRS.
    """
    if vr in _NUMBERS:
        return _numbers_text(_NUMBERS[vr], value, "<" if little_endian else ">")
    if vr == "AT":
        return _tags_text(value, "<" if little_endian else ">")
    delimiters = _DELIMITERS.get(vr, _VALUE_DELIMITERS)
    text = _decode(value, encodings, delimiters) if vr in _CHARSET_VRS else value.decode(default_encoding)
    if vr in _ONE_VALUE_VRS:
        return text.rstrip(" \0")
    strip = _strip_name if vr == "PN" else _strip_text
    return "\\".join(map(strip, text.split("\\"))) if "\\" in text else strip(text)


def _strip_text(value: str) -> str:
    return value.strip(" \0")


def _strip_name(value: str) -> str:
    """A person name (PS3.5 6.2.1) without padding and trailing empty groups."""
    return "=".join(group.strip(" \0") for group in value.split("=")).rstrip("=") if "=" in value else value.strip(" \0")


def _numbers_text(code: str, value: bytes, order: str) -> str:
    count = len(value) // struct.calcsize(f"={code}")
    numbers = struct.unpack_from(f"{order}{count}{code}", value)
    return "\\".join(map(repr if code in "fd" else str, numbers))


def _tags_text(value: bytes, order: str) -> str:
    words = struct.unpack_from(f"{order}{len(value) // 4 * 2}H", value)
    return "\\".join(f"{group:04X}{element:04X}" for group, element in zip(words[::2], words[1::2], strict=True))


def _decode(value: bytes, encodings: Sequence[str], delimiters: re.Pattern[bytes]) -> str:
    if _ESC not in value:
        return value.decode(encodings[0], "replace")
    fragments: Sequence[bytes] = _FRAGMENT.findall(value)
    return "".join(_decode_fragment(fragment, encodings, delimiters) for fragment in fragments)


def _decode_fragment(fragment: bytes, encodings: Sequence[str], delimiters: re.Pattern[bytes]) -> str:
    """Decode what one escape sequence (PS3.3 C.12.1.1.2, tables C.12-3 and C.12-4) is in force for."""
    escape = fragment[: 4 if fragment.startswith((b"\x1b$(", b"\x1b$)")) else 3]
    codec = CODES_TO_ENCODINGS.get(escape)
    if codec is None or (codec not in encodings and codec != default_encoding):
        return fragment.decode(encodings[0], "replace")
    if codec in _ESCAPE_READERS:
        return fragment.decode(codec, "replace")
    body = fragment.removeprefix(escape)
    delimiter = delimiters.search(body)
    cut = delimiter.start() if delimiter else len(body)
    return body[:cut].decode(codec, "replace") + body[cut:].decode(encodings[0], "replace")
