"""Presentation LUTs: what P-value each value of an image becomes (PS3.3 C.11.4, PS3.4 H.4.9). Pure."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.multival import MultiValue

from pacs_core.errors import InvalidAttributeValue, MissingAttribute

_ENTRIES = (256, 4096)  # for images of 8 and of 12 bits
_BITS = range(8, 17)


@dataclass(frozen=True, slots=True)
class Curve:
    """A presentation LUT as it is kept.

    Attributes:
        file: where its P-values are, a byte each; "" where each value is its own.
        entries: how many they are.
    """

    file: str = ""
    entries: int = 0


def values_of(ds: Dataset) -> bytes:
    """The P-values of the attributes of an N-CREATE (H.4.9.2.1), in 8 bits each; none for the identity.

    MissingAttribute where there is neither a shape nor a table, InvalidAttributeValue for one that we do not have.
    """
    shape, tables = ds.get("PresentationLUTShape"), ds.get("PresentationLUTSequence")
    if not shape and not tables:
        raise MissingAttribute("a presentation LUT needs a shape or a table")
    if shape:
        if shape != "IDENTITY" or tables:
            raise InvalidAttributeValue(f"a presentation LUT of the shape {str(shape)[:16]!r} is none that we have")
        return b""
    return _table(tables[0])


def _table(item: Dataset) -> bytes:
    if "LUTDescriptor" not in item or "LUTData" not in item:
        raise MissingAttribute("the table of a presentation LUT needs LUTDescriptor and LUTData")
    descriptor, values = _numbers(item.LUTDescriptor), _numbers(item.LUTData)
    if len(descriptor) != 3:
        raise InvalidAttributeValue("LUTDescriptor has not three values")
    entries, first, bits = descriptor
    if entries not in _ENTRIES or first or bits not in _BITS or len(values) != entries or min(values) < 0 or max(values) >= 1 << bits:
        raise InvalidAttributeValue("a presentation LUT has 256 or 4096 entries from 0 on, of as many bits as it says")
    return bytes(round(value * 255 / ((1 << bits) - 1)) for value in values)


def _numbers(value: object) -> Sequence[int]:
    """What may come as numbers or, where the VR is told by nobody, as their bytes."""
    if isinstance(value, bytes):
        return [number for (number,) in struct.iter_unpack("<H", value[: len(value) // 2 * 2])]
    return [int(number) for number in value] if isinstance(value, MultiValue | list) else []
