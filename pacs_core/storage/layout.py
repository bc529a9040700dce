"""Names of objects within a tier. Pure.

A UID from the network becomes part of a path only in the form of PS3.5 section 9.1, which knows no separator and no
component that a file system treats specially; anything else is replaced by a digest of it.
"""

import hashlib
from datetime import UTC, datetime

from pacs_core.errors import InvalidUID
from pacs_core.model import Layout, parse_uid

_SUFFIX = ".dcm"


def object_path(layout: Layout, *, study: str, series: str, instance: str, received_at: datetime) -> str:
    """Where an instance belongs in a tier: relative, "/" separated.

    Args:
        layout: by UIDs, or by the day of reception in UTC.
        study: StudyInstanceUID, as received.
        series: SeriesInstanceUID, as received.
        instance: SOPInstanceUID, as received.
        received_at: timezone-aware.
    """
    name = path_component(instance) + _SUFFIX
    if layout is Layout.DATE:
        return f"{received_at.astimezone(UTC):%Y/%m/%d}/{name}"
    return f"{path_component(study)}/{path_component(series)}/{name}"


def replacement_path(path: str, sha256: str) -> str:
    """The name beside `path` of an object that takes its place: distinct, because objects are immutable."""
    return f"{path.removesuffix(_SUFFIX)}~{sha256[:8]}{_SUFFIX}"


def is_replacement(path: str) -> bool:
    """Whether the name says that the object took another's place."""
    return "~" in path.rsplit("/", 1)[-1]


def path_component(uid: str) -> str:
    """The UID itself where it is one, otherwise `x-` and 40 hex digits of its SHA-256."""
    try:
        return parse_uid(uid, name="UID")
    except InvalidUID:
        return "x-" + hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def is_object_path(path: str) -> bool:
    """Whether a path stays inside its tier and out of the hidden directories (temporary and quarantined files)."""
    return all(part and not part.startswith(".") for part in path.split("/")) and "\0" not in path
