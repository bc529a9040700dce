"""The pixel data of a data set apart from the rest of it, without either being copied before it must be."""

from collections.abc import Iterator, Sequence

from pydicom.uid import UID as PydicomUID

from pacs_core.dicom.elements import Element, Encoding, read_elements, write_elements
from pacs_core.errors import UnreadableDataSet

_PIXEL_DATA = 0x7FE00010
_MOST_ELEMENTS, _MOST_BYTES = 10_000, 1 << 20  # of what is no pixel data


def parted(data: memoryview, transfer_syntax: str) -> tuple[bytes, Sequence[memoryview]]:
    """An uncompressed data set without the values of its Pixel Data, and those, in their order, as parts of what was given.

    UnreadableDataSet where its structure does not add up; what is no pixel data is small, or refused in the same way.
    """
    syntax = PydicomUID(transfer_syntax)
    encoding = Encoding(implicit=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    elements = read_elements(data, encoding, most=_MOST_ELEMENTS)
    pixels, size = [], 0
    for element in _each(elements):
        if element.tag == _PIXEL_DATA and element.items is None:
            pixels.append(element.value)
            element.value = memoryview(b"")
        size += len(element.value)
    if size > _MOST_BYTES:
        raise UnreadableDataSet(f"there are more than {_MOST_BYTES} bytes beside the pixel data")
    return write_elements(elements, encoding, source=encoding), pixels


def _each(elements: Sequence[Element]) -> Iterator[Element]:
    for element in elements:
        yield element
        for item in element.items or ():
            yield from _each(item.elements)
