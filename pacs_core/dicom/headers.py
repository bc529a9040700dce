"""Data sets in textual form (model.Header), and back. Pure.

Private and unknown attributes have no keyword and are left out.
"""

import struct
from collections.abc import Mapping

from pydicom import Dataset, config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

from pacs_core.dicom.attributes import vr
from pacs_core.model import Header, HeaderValue

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


def header_of(ds: Dataset) -> Header:
    """A data set in textual form. Private and unknown attributes are left out, and bytes that are no text."""
    return {each.keyword: _text_of(each) for each in ds if each.keyword and each.tag.element != 0 and not _is_opaque(each)}


def _is_opaque(each: DataElement) -> bool:
    return isinstance(each.value, bytes) and bool(each.value)


def _text_of(each: DataElement) -> HeaderValue:
    if each.VR == "SQ":
        return [header_of(item) for item in each.value]
    value = each.value
    if value is None:
        return ""
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return "\\".join(_strip(str(v), each.VR) for v in values)


def _strip(text: str, value_representation: str) -> str:
    # Leading spaces are significant in these (PS3.5 table 6.2-1).
    return text.rstrip(" \0") if value_representation in ("ST", "LT", "UT", "UC") else text.strip(" \0")


def data_set_of(header: Header, asked: Dataset | None = None) -> Dataset:
    """A header as a data set.

    Args:
        asked: only what this data set has, in its sequences too, and that even where the header lacks it; None or an empty one for all.
    """
    ds = Dataset()
    if not asked:
        for keyword, value in header.items():
            if (tag := tag_for_keyword(keyword)) is not None:
                ds.add(_element_of(tag, vr(keyword), value, None))
        return ds
    for each in asked:
        if each.keyword and each.tag.element != 0:
            ds.add(_element_of(each.tag, each.VR, header.get(each.keyword, ""), each))
    return ds


def _element_of(tag: int, value_representation: str, value: HeaderValue, asked: DataElement | None) -> DataElement:
    if value_representation != "SQ":
        return element(tag, value_representation, value)
    wanted = asked.value[0] if asked is not None and asked.value else None
    return DataElement(tag, "SQ", [data_set_of(item, wanted) for item in value] if isinstance(value, list) else [])


def element(tag: int | str, value_representation: str, value: HeaderValue) -> DataElement:
    """An element that holds what was stored, valid or not; empty where the VR has no way to hold it."""
    try:
        return DataElement(tag, value_representation, _typed(value_representation, _values(value)), validation_mode=config.IGNORE)
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


def _values(value: HeaderValue) -> str | list[str]:
    text = value if isinstance(value, str) else ""
    return text.split("\\") if "\\" in text else text
