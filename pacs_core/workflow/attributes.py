"""Attributes of data sets: what they must have (the types of PS3.5 7.4), what a change must leave alone, what there is. Pure."""

from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar

from pydicom import Dataset

from pacs_core.errors import InvalidAttributeValue, MissingAttribute, MissingAttributeValue

_Values = TypeVar("_Values", bound=StrEnum)


def require(ds: Dataset, keywords: Iterable[str], *, of: str) -> None:
    """Attributes of type 1. MissingAttribute or MissingAttributeValue of whatever it is."""
    wanted = tuple(keywords)
    if absent := [keyword for keyword in wanted if keyword not in ds]:
        raise MissingAttribute(f"{of} needs {', '.join(absent)}")
    if empty := [keyword for keyword in wanted if ds[keyword].is_empty]:
        raise MissingAttributeValue(f"{of} needs a value of {', '.join(empty)}")


def check_unchanged(current: Dataset, changes: Dataset, keywords: Iterable[str]) -> None:
    """They may be repeated, not changed. InvalidAttributeValue."""
    if refused := [keyword for keyword in keywords if keyword in changes and changes.get(keyword) != current.get(keyword)]:
        raise InvalidAttributeValue(f"{', '.join(refused)} cannot be changed")


def text_of(ds: Dataset, keyword: str) -> str:
    """The value as text; "" where there is none."""
    value = ds.get(keyword)
    return "" if value is None else str(value).strip()


def one_of(ds: Dataset, keyword: str, values: type[_Values]) -> _Values:
    """The value, of those that there are. InvalidAttributeValue for another, or none."""
    text = text_of(ds, keyword)
    try:
        return values(text)
    except ValueError as exc:
        raise InvalidAttributeValue(f"{keyword} {text[:20]!r} is none of {', '.join(values)}") from exc


def items_of(ds: Dataset, keyword: str) -> Iterable[Dataset]:
    """The items of a sequence, none where it is absent."""
    return ds.get(keyword) or ()


def picked(ds: Dataset, keywords: Iterable[str]) -> Dataset:
    """Those of the attributes that have a value."""
    chosen = Dataset()
    for keyword in keywords:
        if keyword in ds and not ds[keyword].is_empty:
            chosen.add(ds[keyword])
    return chosen
