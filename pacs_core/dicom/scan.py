"""The indexed attributes of a data set, found by walking it element by element and skipping the values.

The walk goes to the end, so a data set that is cut short or whose structure does not add up is refused here, before
anyone is told that it is stored. It forgives what pydicom forgives: implicit VR where explicit was announced and the
other way round, unknown VRs, odd lengths, UN and private sequences, zero padding behind the last element. There is no
second opinion from pydicom on what it refuses, because pydicom reads truncated values without complaint.
"""

import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from struct import error as StructError
from types import MappingProxyType

from pydicom.datadict import get_entry, tag_for_keyword
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from typing_extensions import Buffer

from pacs_core.dicom.attributes import INDEXED
from pacs_core.dicom.sop_classes import is_deflated
from pacs_core.dicom.text import DEFAULT_ENCODINGS, TEXTUAL_VRS, Encodings, encodings_of, value_text
from pacs_core.errors import UnreadableDataSet
from pacs_core.model import Header, HeaderValue

INFLATE_LIMIT = 1 << 30
MAX_INDEXED_DEPTH = 4  # of sequences within each other, an indexed one outermost
_INFLATE_STEP = 1 << 20

_UNDEFINED = 0xFFFFFFFF
_MAX_DEPTH = 64
_MAX_INDEXED_ITEMS = 100  # of one sequence
_SHORT_VALUE = 128  # bytes
_MAX_VALUE = 64 << 10  # bytes; a longer value is no matching key of anything

_SHORT_VRS = frozenset(
    vr.encode()
    for vr in ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US")
)
_LONG_VRS = frozenset(vr.encode() for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a data set says of itself. UIDs as sent, "" where absent."""

    header: Header
    SOPClassUID: str
    SOPInstanceUID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str


def scan(data: Buffer, transfer_syntax: str, *, inflate_limit: int = INFLATE_LIMIT) -> ScanResult:
    """The indexed attributes of a data set (without file meta).

    Args:
        data: the whole data set; an mmap keeps it out of memory.
        transfer_syntax: its TransferSyntaxUID; one that is not of PS3.5 annex A counts as explicit VR little endian.
        inflate_limit: bytes to which a deflated data set may expand.

    Raises UnreadableDataSet if it is empty, does not parse or is cut short.
    """
    with memoryview(data) as view:
        if not is_deflated(transfer_syntax):
            return _scan_inflated(view, transfer_syntax)
        return _scan_inflated(memoryview(inflate(view, limit=inflate_limit)), transfer_syntax)


def inflate(data: memoryview, *, limit: int = INFLATE_LIMIT) -> bytes:
    """A deflated data set (PS3.5 A.5), expanded. UnreadableDataSet if it is broken, cut short or exceeds the limit."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    chunks: list[bytes] = []
    size = 0
    pending: Buffer = data
    try:
        while not engine.eof:
            chunk = engine.decompress(pending, _INFLATE_STEP)
            pending = engine.unconsumed_tail
            size += len(chunk)
            if size > limit:
                raise UnreadableDataSet(f"the deflated data set expands to more than {limit} bytes")
            if not chunk and not pending:
                raise UnreadableDataSet("the deflated data set is cut short")
            chunks.append(chunk)
    except zlib.error as exc:
        raise UnreadableDataSet("the data set is not in the deflated transfer syntax that it claims") from exc
    return b"".join(chunks)


def _scan_inflated(view: memoryview, transfer_syntax: str) -> ScanResult:
    if not len(view):
        raise UnreadableDataSet("the data set is empty")
    little_endian = transfer_syntax != ExplicitVRBigEndian
    implicit = transfer_syntax == ImplicitVRLittleEndian
    walker = _Walker(view, little_endian=little_endian)
    try:
        found = walker.top_level(implicit)
        header = walker.header(found, walker.encodings(found, DEFAULT_ENCODINGS), _INDEXED_TAGS[little_endian])
    except StructError as exc:
        raise UnreadableDataSet("the data set is cut short") from exc
    return ScanResult(
        header=header,
        SOPClassUID=_uid(header, "SOPClassUID"),
        SOPInstanceUID=_uid(header, "SOPInstanceUID"),
        StudyInstanceUID=_uid(header, "StudyInstanceUID"),
        SeriesInstanceUID=_uid(header, "SeriesInstanceUID"),
    )


def _uid(header: Header, keyword: str) -> str:
    value = header.get(keyword, "")
    return value if isinstance(value, str) else ""


# Tags are compared as they are read, as one 32-bit number: in little endian that has the element in the upper half.
@dataclass(frozen=True, slots=True)
class _Marks:
    item: int
    item_end: int
    sequence_end: int
    charset: int


_MARKS = {
    True: _Marks(item=0xE000FFFE, item_end=0xE00DFFFE, sequence_end=0xE0DDFFFE, charset=0x00050008),
    False: _Marks(item=0xFFFEE000, item_end=0xFFFEE00D, sequence_end=0xFFFEE0DD, charset=0x00080005),
}


def _as_read(tag: int, little_endian: bool) -> int:
    return (tag & 0xFFFF) << 16 | tag >> 16 if little_endian else tag


def _indexed_tags(little_endian: bool) -> Mapping[int, tuple[str, str]]:
    """Tag as read, to keyword and VR, of everything a header holds."""
    table = {}
    for keyword in ("SpecificCharacterSet", *(keyword for keywords in INDEXED.values() for keyword in keywords)):
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        table[_as_read(tag, little_endian)] = (keyword, get_entry(tag)[0])
    return MappingProxyType(table)


_INDEXED_TAGS = {True: _indexed_tags(True), False: _indexed_tags(False)}


@lru_cache(maxsize=4096)
def _keyword_and_vr(tag: int, little_endian: bool) -> tuple[str, str] | None:
    """Keyword and VR of a standard attribute by its tag as read; None for private and unknown ones."""
    try:
        entry = get_entry(_as_read(tag, little_endian))  # the swap is its own inverse
    except KeyError:
        return None
    return (entry[4], entry[0]) if entry[4] else None


# Nearly all values of an instance are those of the instance before it.
_text_of_short = lru_cache(maxsize=4096)(value_text)


class _Everything:
    """A container that has it."""

    def __contains__(self, _: object) -> bool:
        return True


_EVERYTHING = _Everything()
_NOTHING: frozenset[int] = frozenset()

# Where a value is: its VR as encoded (b"" in implicit VR), offset and length (_UNDEFINED if delimited), and
# whether the elements of its items are in implicit VR.
_Found = dict[int, tuple[bytes, int, int, bool]]


class _Walker:
    """Walks one data set. UnreadableDataSet, or struct.error at the end of the data, if it cannot."""

    def __init__(self, data: memoryview, *, little_endian: bool) -> None:
        self._data = data
        self._little_endian = little_endian
        order = "<" if little_endian else ">"
        self._explicit = Struct(f"{order}I2sH").unpack_from
        self._implicit = Struct(f"{order}II").unpack_from
        self._long = Struct(f"{order}I").unpack_from
        self._marks = _MARKS[little_endian]
        self._indexed = _INDEXED_TAGS[little_endian]

    def top_level(self, implicit: bool) -> _Found:
        """The indexed elements of the data set itself."""
        found: _Found = {}
        self._elements(0, len(self._data), self._is_implicit(0, implicit), found, depth=0)
        return found

    def encodings(self, found: _Found, inherited: Encodings) -> Encodings:
        """The character sets in force (PS3.5 6.1.2.3: an item inherits those of the data set around it)."""
        if self._marks.charset not in found:
            return inherited
        _, offset, length, _ = found[self._marks.charset]
        return encodings_of(bytes(self._data[offset : offset + min(length, _MAX_VALUE)]))

    def header(self, found: _Found, encodings: Encodings, names: Mapping[int, tuple[str, str]] | None, depth: int = 0) -> Header:
        """Found elements in textual form; `names` is what to keep, None for all that have a text."""
        header: Header = {}
        for tag, (raw_vr, offset, length, implicit) in found.items():
            known = names.get(tag) if names else _keyword_and_vr(tag, self._little_endian)
            if known is None or tag == self._marks.charset:
                continue
            value = self._value(known[1], raw_vr, offset, length, implicit, encodings, depth)
            if value is not None:
                header[known[0]] = value
        return header

    def _value(
        self, dictionary_vr: str, raw_vr: bytes, offset: int, length: int, implicit: bool, encodings: Encodings, depth: int
    ) -> HeaderValue | None:
        if dictionary_vr == "SQ":
            return self._items(offset, length, implicit, encodings, depth + 1) if depth < MAX_INDEXED_DEPTH else None
        vr = raw_vr.decode("latin-1")
        if vr not in TEXTUAL_VRS:
            vr = dictionary_vr
        if vr not in TEXTUAL_VRS or length > _MAX_VALUE:
            return None
        text = _text_of_short if length <= _SHORT_VALUE else value_text
        return text(vr, bytes(self._data[offset : offset + length]), little_endian=self._little_endian, encodings=encodings)

    def _items(self, offset: int, length: int, implicit: bool, encodings: Encodings, depth: int) -> list[Header]:
        end = len(self._data) if length == _UNDEFINED else offset + length
        headers: list[Header] = []
        while offset < end:
            tag, item_length = self._implicit(self._data, offset)
            if tag != self._marks.item:
                break
            offset += 8
            found: _Found = {}
            is_implicit = implicit or self._is_implicit(offset, implicit)
            offset = self._item(offset, item_length, end, is_implicit, found, depth)
            if len(headers) < _MAX_INDEXED_ITEMS:
                headers.append(self.header(found, self.encodings(found, encodings), None, depth))
        return headers

    def _item(self, offset: int, length: int, end: int, implicit: bool, found: _Found | None, depth: int) -> int:
        """Walk (or, with a known length and nothing wanted, skip) one item's content; returns the offset past it."""
        if length == _UNDEFINED:
            return self._elements(offset, end, implicit, found, depth, delimited=True)
        if offset + length > end:
            raise UnreadableDataSet("an item of a sequence is longer than what holds it")
        if found is not None:
            self._elements(offset, offset + length, implicit, found, depth)
        return offset + length

    def _is_implicit(self, offset: int, announced: bool) -> bool:
        """Whether elements at an offset are in implicit VR, whatever was announced: a VR is two capital letters."""
        vr = bytes(self._data[offset + 4 : offset + 6])
        if len(vr) < 2:
            return announced
        return not _is_vr_form(vr)

    def _elements(self, offset: int, end: int, implicit: bool, found: _Found | None, depth: int, delimited: bool = False) -> int:
        """Walk elements up to `end`, or to the item delimiter; returns the offset past them."""
        if depth > _MAX_DEPTH:
            raise UnreadableDataSet(f"sequences are nested more than {_MAX_DEPTH} deep")
        walk = self._implicit_elements if implicit else self._explicit_elements
        offset, is_delimited = walk(
            offset, end, {} if found is None else found, _NOTHING if found is None else _EVERYTHING if depth else self._indexed, depth
        )
        if offset > end or is_delimited != delimited or not (delimited or _is_zero(self._data[offset:end])):
            raise UnreadableDataSet(
                "an element ends outside of what holds it: the data set is cut short or not in the transfer syntax that it claims"
            )
        return offset if delimited else end

    # These two loops see every element of every instance that is stored, hence local names and no calls. Values are
    # skipped without a look; that the last one ends within bounds proves that all did.

    def _explicit_elements(self, offset: int, end: int, found: _Found, wanted: Container[int], depth: int) -> tuple[int, bool]:
        """Walk elements in explicit VR; returns the offset past them and whether an item delimiter ended them."""
        data, head, long_length, short_vrs = self._data, self._explicit, self._long, _SHORT_VRS
        last = end - 8
        while offset <= last:
            tag, vr, length = head(data, offset)
            start = offset + 8
            if vr in short_vrs:
                offset = start + length
            else:
                if vr in _LONG_VRS:
                    (length,) = long_length(data, start)
                    start += 4
                elif not _is_vr_form(vr):
                    tag, length = self._implicit(data, offset)
                    vr = b""
                    if tag == self._marks.item_end:
                        return start, True
                    if not tag and _is_zero(data[offset:end]):
                        return end, False
                offset = start + length if length != _UNDEFINED else self._delimited(vr, start, end, False, depth)
            if tag in wanted:
                found[tag] = (vr, start, length, vr == b"UN" or not vr)
        return offset, False

    def _implicit_elements(self, offset: int, end: int, found: _Found, wanted: Container[int], depth: int) -> tuple[int, bool]:
        """Walk elements in implicit VR; returns the offset past them and whether an item delimiter ended them."""
        data, head, item_end = self._data, self._implicit, self._marks.item_end
        last = end - 8
        while offset <= last:
            tag, length = head(data, offset)
            start = offset + 8
            if tag == item_end:
                return start, True
            offset = start + length if length != _UNDEFINED else self._delimited(b"", start, end, True, depth)
            if tag in wanted:
                found[tag] = (b"", start, length, True)
        return offset, False

    def _delimited(self, vr: bytes, offset: int, end: int, implicit: bool, depth: int) -> int:
        """Walk a value of undefined length: a sequence (PS3.5 7.5) or the fragments of pixel data (A.4)."""
        marks = self._marks
        is_sequence = vr in (b"SQ", b"UN", b"")
        while True:
            item, length = self._implicit(self._data, offset)
            offset += 8
            if offset > end:
                raise UnreadableDataSet("a sequence is cut short")
            if item == marks.sequence_end:
                return offset
            if item != marks.item:
                raise UnreadableDataSet("a sequence holds something that is not an item")
            if length == _UNDEFINED and not is_sequence:
                raise UnreadableDataSet("a fragment of encapsulated pixel data has no length")
            is_implicit = implicit or (length == _UNDEFINED and self._is_implicit(offset, implicit))
            offset = self._item(offset, length, end, is_implicit, None, depth + 1)


def _is_vr_form(vr: bytes) -> bool:
    return 0x40 < vr[0] < 0x5B and 0x40 < vr[1] < 0x5B


def _is_zero(data: memoryview) -> bool:
    return not any(data[:64]) and not any(bytes(data).strip(b"\0"))
