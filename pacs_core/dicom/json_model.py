"""Data sets in the DICOM JSON Model (PS3.18 F.2), and back: what is kept whole of data sets that are no stored instances."""

from collections.abc import Mapping
from typing import Any

from pydicom import Dataset

from pacs_core.errors import IntegrityError, InvalidAttributeValue


def to_json(ds: Dataset) -> Mapping[str, Any]:
    """InvalidAttributeValue for a value that its VR does not have."""
    try:
        model: Mapping[str, Any] = ds.to_json_dict()
    except Exception as exc:  # pydicom raises whatever a value that does not suit its VR leads to
        raise InvalidAttributeValue(f"an attribute has a value that its VR does not have: {type(exc).__name__}") from exc
    return model


def from_json(model: Mapping[str, Any]) -> Dataset:
    """IntegrityError if it is not what `to_json` made."""
    try:
        return Dataset.from_json(dict(model))
    except Exception as exc:  # pydicom raises whatever malformed JSON leads to
        raise IntegrityError(f"a kept data set cannot be read: {type(exc).__name__}") from exc
