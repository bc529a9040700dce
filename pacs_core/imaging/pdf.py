"""A PDF document of images (ISO 32000-1), a page each. Pure, but for the files that are read and written.

What deflates the scan lines of a PNG file is what PDF calls FlateDecode with a PNG predictor (7.4.4.4), so their bytes are copied as they
are: nothing is lost, nothing is compressed again, and no page is ever in memory.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pacs_core.errors import IntegrityError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_HEADER = struct.Struct(">IIBBB")  # of IHDR: width, height, bit depth, colour type, compression
_CHECKSUM = 4
_SPACES = {0: (b"DeviceGray", 1), 2: (b"DeviceRGB", 3)}
_POINTS_PER_INCH = 72
_FIRST_PAGE = 3  # objects 1 and 2 are the catalog and the page tree; each page has three


def write_document(file: BinaryIO, pages: Sequence[Path], *, dpi: Sequence[int]) -> None:
    """Write PNG files as a document.

    Args:
        file: written from its beginning.
        pages: PNG files of 8-bit gray or RGB without interlacing, as `RenderedPage.save` makes them.
        dpi: of each.

    OSError; IntegrityError for another PNG.
    """
    writer = _Writer(file)
    numbers = [_FIRST_PAGE + 3 * index for index in range(len(pages))]
    writer.begin(1, b"<< /Type /Catalog /Pages 2 0 R >>")
    kids = b" ".join(b"%d 0 R" % number for number in numbers)
    writer.begin(2, b"<< /Type /Pages /Count %d /Kids [%b] >>" % (len(pages), kids))
    for number, path, resolution in zip(numbers, pages, dpi, strict=True):
        with path.open("rb") as source:
            _write_page(writer, number, _scan(source), source, _POINTS_PER_INCH / resolution)
    writer.end()


@dataclass(frozen=True, slots=True)
class _Png:
    """What a PNG file holds: parts of its deflated scan lines are each an offset and a length."""

    width: int
    height: int
    space: bytes
    samples: int
    parts: Sequence[tuple[int, int]]


def _scan(source: BinaryIO) -> _Png:
    if source.read(len(_SIGNATURE)) != _SIGNATURE:
        raise IntegrityError("a page is no PNG file")
    parts, head = [], b""
    for kind, length in _chunks(source):
        if kind == b"IHDR":
            head = source.read(length)
        elif kind == b"IDAT":
            parts.append((source.tell(), length))
    width, height, depth, kind_of_color, _ = _HEADER.unpack_from(head)
    if depth != 8 or kind_of_color not in _SPACES or head[-1]:
        raise IntegrityError("a page is no PNG file of 8-bit gray or RGB")
    return _Png(width, height, *_SPACES[kind_of_color], parts)


def _chunks(source: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and length of each chunk, at whose content the file then is."""
    position = source.tell()
    while len(head := source.read(_CHUNK.size)) == _CHUNK.size:
        length, kind = _CHUNK.unpack(head)
        yield kind, length
        position += _CHUNK.size + length + _CHECKSUM
        source.seek(position)


def _write_page(writer: "_Writer", number: int, png: _Png, source: BinaryIO, scale: float) -> None:
    width, height = png.width * scale, png.height * scale
    writer.begin(
        number,
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %.4f %.4f] /Resources << /XObject << /Page %d 0 R >> >> /Contents %d 0 R >>"
        % (width, height, number + 2, number + 1),
    )
    drawing = b"%.4f 0 0 %.4f 0 0 cm /Page Do" % (width, height)
    writer.begin(number + 1, b"<< /Length %d >>" % len(drawing))
    writer.stream([drawing])
    writer.begin(
        number + 2,
        b"<< /Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /%b /BitsPerComponent 8 /Filter /FlateDecode"
        b" /DecodeParms << /Predictor 15 /Colors %d /Columns %d >> /Length %d >>"
        % (png.width, png.height, png.space, png.samples, png.width, sum(length for _, length in png.parts)),
    )
    writer.stream(_read(source, png.parts))


def _read(source: BinaryIO, parts: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    for offset, length in parts:
        source.seek(offset)
        yield source.read(length)


class _Writer:
    """Numbered objects, one after the other, and the table of where they are (7.5.4)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offsets: list[int] = []
        file.write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")

    def begin(self, number: int, dictionary: bytes) -> None:
        self._close()
        self._offsets.append(self._file.tell())
        assert number == len(self._offsets), "objects are written in the order of their numbers"
        self._file.write(b"%d 0 obj\n%b\n" % (number, dictionary))

    def stream(self, parts: Sequence[bytes] | Iterator[bytes]) -> None:
        self._file.write(b"stream\n")
        for part in parts:
            self._file.write(part)
        self._file.write(b"\nendstream\n")

    def end(self) -> None:
        self._close()
        start, count = self._file.tell(), len(self._offsets) + 1
        self._file.write(b"xref\n0 %d\n0000000000 65535 f \n" % count)
        for offset in self._offsets:
            self._file.write(b"%010d 00000 n \n" % offset)
        self._file.write(b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, start))

    def _close(self) -> None:
        if self._offsets:
            self._file.write(b"endobj\n")
