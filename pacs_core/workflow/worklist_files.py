"""Worklist items as people write them down: JSON, CSV, and the .wl files of DCMTK's wlmscpfs. Pure.

Each reader yields, for each item, where it stands in the file and its attributes, or the error that keeps it from being read: one bad
line of a hundred does not keep the others out.
"""

import csv
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from io import BytesIO, StringIO

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs_core.dicom.headers import header_of
from pacs_core.errors import InvalidAttributeValue, RequestError, UnreadableDataSet
from pacs_core.model import Header, HeaderValue

Found = tuple[str, Header | RequestError]

_TAG = re.compile(r"[0-9A-Fa-f]{8}")


def read_json(content: bytes) -> Iterator[Found]:
    """An item or a list of items, each in the DICOM JSON Model (PS3.18 F.2) or with keywords for its keys.

    With keywords, a value is a text, a number or a list of them; a sequence is a list of objects.
    """
    try:
        items = json.loads(content)
    except ValueError as exc:
        yield "file", UnreadableDataSet(f"it is not JSON: {exc}")
        return
    for number, item in enumerate(items if isinstance(items, list) else [items], start=1):
        where = f"item {number}"
        try:
            yield where, _from_json(item)
        except RequestError as exc:
            yield where, exc


def read_csv(content: bytes) -> Iterator[Found]:
    """A line of keywords, then one of values for each item; UTF-8, separated by commas or semicolons."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        yield "file", UnreadableDataSet(f"it is not UTF-8 (byte {exc.start})")
        return
    first = text.partition("\n")[0]
    reader = csv.DictReader(StringIO(text), delimiter=";" if first.count(";") > first.count(",") else ",", strict=True)
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            try:
                yield where, _from_row(row)
            except RequestError as exc:
                yield where, exc
    except csv.Error as exc:
        yield f"line {reader.line_num}", UnreadableDataSet(f"it is not CSV: {exc}")


def read_wl(content: bytes) -> Iterator[Found]:
    """One DICOM data set, with or without a Part 10 header."""
    try:
        yield "file", _from_dicom(content)
    except RequestError as exc:
        yield "file", exc


def _from_dicom(content: bytes) -> Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values are none of a reader's business
            ds = dcmread(BytesIO(content), force=True)
            ds.decode()
            header = header_of(ds)
    except Exception as exc:  # pydicom raises whatever malformed bytes lead to
        raise UnreadableDataSet(f"it is not DICOM: {type(exc).__name__}") from exc
    if not header:
        raise UnreadableDataSet("it is not DICOM: it has no attribute that the Standard knows")
    return header


def _from_json(item: object) -> Header:
    if not isinstance(item, dict):
        raise UnreadableDataSet("an item is an object with attributes")
    if item and all(_TAG.fullmatch(key) for key in item):
        try:
            return header_of(Dataset.from_json(item))
        except Exception as exc:  # pydicom raises whatever malformed JSON leads to
            raise UnreadableDataSet(f"it is not in the DICOM JSON Model: {type(exc).__name__}") from exc
    return {keyword: _json_value(keyword, value) for keyword, value in item.items()}


def _json_value(keyword: str, value: object) -> HeaderValue:
    if _vr(keyword) == "SQ":
        items = value if isinstance(value, list) else [value]
        return [_from_json(item) for item in items]
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, dict | list | bool) for each in values):
        raise InvalidAttributeValue(f"{keyword} is no sequence; give a text, a number or a list of them")
    return "\\".join("" if each is None else str(each) for each in values)


def _from_row(row: Mapping[str | None, str | list[str] | None]) -> Header:
    header: Header = {}
    for keyword, value in row.items():
        if keyword is None or value is None:
            raise UnreadableDataSet("it has more or fewer values than the first line has keywords")
        assert isinstance(value, str)
        if _vr(keyword.strip()) == "SQ":
            raise InvalidAttributeValue(f"{keyword} is a sequence, which CSV cannot hold; use JSON")
        header[keyword.strip()] = value.strip()
    return header


def _vr(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise InvalidAttributeValue(f"{keyword[:64]!r} is no DICOM keyword, such as PatientID or ScheduledStationAETitle")
    return dictionary_VR(tag)
