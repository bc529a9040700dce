"""Data sets as trees of encoded elements, read and written without touching what the values mean.

Made for changing the transfer syntax: text keeps its bytes whatever its character set, and only lengths, VRs and the
byte order change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Literal

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from pacs_core.errors import UnreadableDataSet

UNDEFINED = 0xFFFFFFFF
MAX_DEPTH = 64

_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_PIXEL_REPRESENTATION = 0x00280103

_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_WORD = {"US": 2, "SS": 2, "OW": 2, "AT": 2, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4, "FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are encoded (PS3.5 section 7)."""

    implicit: bool
    little_endian: bool


IMPLICIT_LITTLE = Encoding(implicit=True, little_endian=True)


@dataclass(slots=True)
class Element:
    """One element; a sequence has items instead of a value."""

    tag: int
    vr: str
    value: memoryview = field(default_factory=lambda: memoryview(b""))
    items: "list[Item] | None" = None
    delimited: bool = False


@dataclass(slots=True)
class Item:
    """One item of a sequence."""

    elements: list[Element]
    delimited: bool


def read_elements(data: memoryview, encoding: Encoding, *, most: int = UNDEFINED) -> list[Element]:
    """The elements of a whole, uncompressed data set. UnreadableDataSet where they do not add up, or are more than that."""
    return _Reader(data, most).elements(0, len(data), _actual(data, 0, encoding), (), depth=0)[0]


def write_elements(elements: Sequence[Element], encoding: Encoding, *, source: Encoding) -> bytes:
    """Elements in another encoding. Group lengths (PS3.5 7.2, retired) would be wrong and are left out."""
    out = bytearray()
    _Writer(encoding, swaps=encoding.little_endian != source.little_endian).elements(elements, out)
    return bytes(out)


def _actual(data: memoryview, offset: int, announced: Encoding) -> Encoding:
    vr = bytes(data[offset + 4 : offset + 6])
    if len(vr) < 2:
        return announced
    return Encoding(implicit=not _is_vr_form(vr), little_endian=announced.little_endian)


def _is_vr_form(vr: bytes) -> bool:
    return 0x40 < vr[0] < 0x5B and 0x40 < vr[1] < 0x5B


# The elements read so far of a data set and of those around it, innermost last: what an ambiguous VR depends on.
_Context = tuple[list[Element], ...]


class _Reader:
    def __init__(self, data: memoryview, most: int) -> None:
        self._data = data
        self._left = most

    def elements(self, offset: int, end: int, encoding: Encoding, context: _Context, depth: int) -> tuple[list[Element], int]:
        """Elements up to `end` or an item delimiter, and the offset past them."""
        if depth > MAX_DEPTH:
            raise UnreadableDataSet(f"sequences are nested more than {MAX_DEPTH} deep")
        found: list[Element] = []
        context = (*context, found)
        while end - offset >= 8:
            tag, vr, length, offset = self._head(offset, encoding)
            if tag == _ITEM_END:
                return found, offset
            if not tag and not any(bytes(self._data[offset:end]).strip(b"\0")):
                return found, end
            vr = vr or _lookup_vr(tag, context, encoding)
            self._count()
            element, offset = self._element(tag, vr, length, offset, end, encoding, context, depth)
            found.append(element)
        return found, end

    def _count(self) -> None:
        """Items are counted too: an element or an item of eight bytes takes three hundred in memory."""
        self._left -= 1
        if self._left < 0:
            raise UnreadableDataSet("there are more elements than a data set of its kind can have")

    def _head(self, offset: int, encoding: Encoding) -> tuple[int, str, int, int]:
        order = "<" if encoding.little_endian else ">"
        group, number, length = Struct(f"{order}HHI").unpack_from(self._data, offset)
        raw_vr = bytes(self._data[offset + 4 : offset + 6])
        if encoding.implicit or group == 0xFFFE or not _is_vr_form(raw_vr):
            return group << 16 | number, "", length, offset + 8
        vr = raw_vr.decode("ascii")
        if vr in _LONG_VRS:
            if len(self._data) - offset < 12:
                raise UnreadableDataSet("an element is cut short")
            return group << 16 | number, vr, Struct(f"{order}I").unpack_from(self._data, offset + 8)[0], offset + 12
        return group << 16 | number, vr, Struct(f"{order}H").unpack_from(self._data, offset + 6)[0], offset + 8

    def _element(
        self, tag: int, vr: str, length: int, offset: int, end: int, encoding: Encoding, context: _Context, depth: int
    ) -> tuple[Element, int]:
        delimited = length == UNDEFINED
        if delimited or vr == "SQ":
            # UN of undefined length is a sequence in implicit VR little endian, whatever is around it (PS3.5 6.2.2).
            inner = IMPLICIT_LITTLE if vr == "UN" else encoding
            items, offset = self._items(offset, end if delimited else offset + length, end, inner, context, depth, delimited=delimited)
            return Element(tag, "SQ", items=items, delimited=delimited), offset
        if offset + length > end:
            raise UnreadableDataSet("an element is longer than what holds it")
        return Element(tag, vr, self._data[offset : offset + length]), offset + length

    def _items(
        self, offset: int, end: int, limit: int, encoding: Encoding, context: _Context, depth: int, *, delimited: bool
    ) -> tuple[list[Item], int]:
        if end > limit:
            raise UnreadableDataSet("a sequence is longer than what holds it")
        items: list[Item] = []
        while offset < end:
            if end - offset < 8:
                raise UnreadableDataSet("a sequence is cut short")
            tag, _, length, offset = self._head(offset, encoding)
            if tag == _SEQUENCE_END:
                return items, offset
            if tag != _ITEM:
                raise UnreadableDataSet("a sequence holds something that is not an item")
            is_delimited = length == UNDEFINED
            if not is_delimited and offset + length > end:
                raise UnreadableDataSet("an item of a sequence is longer than what holds it")
            self._count()
            inner = encoding if encoding.implicit else _actual(self._data, offset, encoding) if length else encoding
            elements, offset = self.elements(offset, end if is_delimited else offset + length, inner, context, depth + 1)
            items.append(Item(elements, is_delimited))
        if delimited:
            raise UnreadableDataSet("a sequence is cut short")
        return items, offset


class _Writer:
    def __init__(self, encoding: Encoding, *, swaps: bool) -> None:
        order = "<" if encoding.little_endian else ">"
        self._implicit = encoding.implicit
        self._swaps = swaps
        self._head = Struct(f"{order}HHI").pack
        self._short = Struct(f"{order}HH2sH").pack
        self._long = Struct(f"{order}HH2s2xI").pack

    def elements(self, elements: Sequence[Element], out: bytearray) -> None:
        """Append encoded elements."""
        for element in elements:
            if not element.tag & 0xFFFF:
                continue
            if element.items is None:
                value = _swapped(element.value, _WORD.get(element.vr, 1)) if self._swaps else element.value
                self._start(element.tag, element.vr, len(value), out)
                out += value
            else:
                self._sequence(element, element.items, out)

    def _sequence(self, element: Element, items: Sequence[Item], out: bytearray) -> None:
        body = bytearray()
        for item in items:
            content = bytearray()
            self.elements(item.elements, content)
            body += self._head(_ITEM >> 16, _ITEM & 0xFFFF, UNDEFINED if item.delimited else len(content)) + content
            if item.delimited:
                body += self._head(_ITEM_END >> 16, _ITEM_END & 0xFFFF, 0)
        self._start(element.tag, "SQ", UNDEFINED if element.delimited else len(body), out)
        out += body
        if element.delimited:
            out += self._head(_SEQUENCE_END >> 16, _SEQUENCE_END & 0xFFFF, 0)

    def _start(self, tag: int, vr: str, length: int, out: bytearray) -> None:
        group, number = tag >> 16, tag & 0xFFFF
        if self._implicit:
            out += self._head(group, number, length)
        elif vr in _LONG_VRS:
            out += self._long(group, number, vr.encode("ascii"), length)
        elif length > 0xFFFF:  # PS3.5 6.2.2, note 2
            out += self._long(group, number, b"UN", length)
        else:
            out += self._short(group, number, vr.encode("ascii"), length)


def _swapped(value: memoryview, word: int) -> bytes:
    """A value in the other byte order. What does not fill a word stays as it is."""
    if word == 1:
        return bytes(value)
    whole = len(value) // word * word
    swapped = bytearray(value)
    for position in range(word):
        swapped[position:whole:word] = value[word - 1 - position : whole : word]
    return bytes(swapped)


def _lookup_vr(tag: int, context: _Context, encoding: Encoding) -> str:
    """The VR of an element that comes without one (PS3.5 6.2.2, 7.1.3, annex A.1)."""
    if not tag & 0xFFFF:
        return "UL"
    if tag >> 16 & 1:
        return _private_vr(tag, context[-1])
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    if vr == "US or SS":
        return "SS" if _is_signed(context, encoding) else "US"
    return "OW" if " or " in vr else vr


def _private_vr(tag: int, siblings: Sequence[Element]) -> str:
    number = tag & 0xFFFF
    if 0x10 <= number <= 0xFF:
        return "LO"
    creator_tag = tag & 0xFFFF0000 | number >> 8
    creator = next((bytes(element.value) for element in siblings if element.tag == creator_tag and element.items is None), b"")
    try:
        return private_dictionary_VR(tag, creator.decode("latin-1").strip(" \0"))
    except KeyError:
        return "UN"


def _is_signed(context: _Context, encoding: Encoding) -> bool:
    byte_order: Literal["little", "big"] = "little" if encoding.little_endian else "big"
    for elements in reversed(context):
        for element in elements:
            if element.tag == _PIXEL_REPRESENTATION:
                return int.from_bytes(element.value, byte_order) == 1
    return False
