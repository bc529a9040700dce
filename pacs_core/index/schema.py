"""The lake's tables: their columns, their DDL and the rows of instance records. Pure.

Per level: every scalar indexed attribute as a column with its DICOM keyword, the keys of the levels above, and
`header`, the level's attributes as received, which is what C-FIND answers. Columns are for matching and for SQL;
where a value cannot be read as its type, or is empty, the column is NULL.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time

import pyarrow as pa

from pacs_core.dicom.attributes import INDEXED, vr
from pacs_core.dicom.matching import DECIMAL_VRS, INTEGER_VRS, trim, value_representation
from pacs_core.dicom.values import parse_date, parse_datetime, parse_decimal, parse_integer, parse_time
from pacs_core.model import Header, HeaderValue, InstanceRecord, Level

ColumnValue = str | int | float | date | time | datetime | None

# One entity is one row: the columns that say which. A series is one of its study even where two studies use its UID.
KEYS: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: ("PatientID", "IssuerOfPatientID"),
    Level.STUDY: ("StudyInstanceUID",),
    Level.SERIES: ("StudyInstanceUID", "SeriesInstanceUID"),
    Level.IMAGE: ("SOPInstanceUID",),
}

_KEYS_ABOVE: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: (),
    Level.STUDY: ("PatientID", "IssuerOfPatientID"),
    Level.SERIES: ("StudyInstanceUID",),
    Level.IMAGE: ("SeriesInstanceUID", "StudyInstanceUID"),
}

_ALL_KEYS = frozenset(keyword for keywords in KEYS.values() for keyword in keywords)


@dataclass(frozen=True, slots=True)
class Column:
    """A column, in SQL and in Arrow."""

    name: str
    sql_type: str
    arrow_type: pa.DataType


_TEXT = ("VARCHAR", pa.string())
_TYPES: Mapping[str, tuple[str, pa.DataType]] = {
    "DA": ("DATE", pa.date32()),
    "TM": ("TIME", pa.time64("us")),
    "DT": ("TIMESTAMP", pa.timestamp("us")),
    **dict.fromkeys(INTEGER_VRS, ("BIGINT", pa.int64())),
    **dict.fromkeys(DECIMAL_VRS, ("DOUBLE", pa.float64())),
}
_UTC = ("TIMESTAMPTZ", pa.timestamp("us", tz="UTC"))
_OBJECT_COLUMNS = (
    Column("TransferSyntaxUID", *_TEXT),
    Column("tier", *_TEXT),
    Column("path", *_TEXT),
    Column("size", "BIGINT", pa.int64()),
    Column("sha256", *_TEXT),
    Column("source_ae", *_TEXT),
    Column("receiving_ae", *_TEXT),
    Column("received_at", *_UTC),
    Column("verified_at", *_UTC),
    Column("located_at", *_UTC),
    Column("located_by", *_TEXT),
)


def _columns(level: Level) -> tuple[Column, ...]:
    keywords = [*_KEYS_ABOVE[level], *(keyword for keyword in INDEXED[level] if vr(keyword) != "SQ")]
    attributes = [Column(keyword, *_TYPES.get(vr(keyword), _TEXT)) for keyword in keywords]
    objects = _OBJECT_COLUMNS if level is Level.IMAGE else ()
    return (*attributes, *objects, Column("header", *_TEXT))


COLUMNS: Mapping[Level, tuple[Column, ...]] = {level: _columns(level) for level in Level}
_HEADER_COLUMNS = {
    level: tuple(column.name for column in columns if column not in _OBJECT_COLUMNS and column.name != "header")
    for level, columns in COLUMNS.items()
}
_ARROW_SCHEMAS = {level: pa.schema([(column.name, column.arrow_type) for column in columns]) for level, columns in COLUMNS.items()}


def create_table(level: Level) -> str:
    """The DDL of a level's table in the lake."""
    columns = ", ".join(f'"{column.name}" {column.sql_type}' for column in COLUMNS[level])
    return f"CREATE TABLE IF NOT EXISTS lake.{level.table} ({columns})"


def add_column(level: Level, column: Column) -> str:
    """The DDL for a column that an older version's table lacks."""
    return f'ALTER TABLE lake.{level.table} ADD COLUMN IF NOT EXISTS "{column.name}" {column.sql_type}'


def arrow_table(level: Level, records: Iterable[InstanceRecord]) -> pa.Table:
    """One row for each record, of the entity at that level."""
    return pa.Table.from_pylist([_row(level, record) for record in records], schema=_ARROW_SCHEMAS[level])


def entity_key(level: Level, record: InstanceRecord) -> tuple[str, ...]:
    """The values of the level's KEYS."""
    header = {**record.header, **_uids(record)}
    return tuple(_key_value(keyword, header) for keyword in KEYS[level])


def column_value(keyword: str, value: HeaderValue | None) -> ColumnValue:
    """An attribute's text as its column holds it; None where it is absent, empty or not of its VR."""
    if not isinstance(value, str) or not (text := clean(trim(value, keyword))):
        return None
    match value_representation(keyword):
        case "DA":
            return parse_date(text)
        case "TM":
            of_day = parse_time(text)
            return of_day.first if of_day else None
        case "DT":
            instant = parse_datetime(text)
            return instant.first if instant else None
        case kind if kind in INTEGER_VRS:
            return parse_integer(text)
        case kind if kind in DECIMAL_VRS:
            return parse_decimal(text)
    return text


def clean(text: str) -> str:
    """What Parquet and PostgreSQL can both hold: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def encode_header(header: Header, keywords: Sequence[str]) -> str:
    """The named attributes of a header as JSON text."""
    chosen = {keyword: header[keyword] for keyword in keywords if keyword in header}
    return clean(json.dumps(chosen, ensure_ascii=False, separators=(",", ":")))


def _row(level: Level, record: InstanceRecord) -> dict[str, ColumnValue]:
    header = {**record.header, **_uids(record)}
    row: dict[str, ColumnValue] = {
        name: _key_value(name, header) if name in _ALL_KEYS else column_value(name, header.get(name)) for name in _HEADER_COLUMNS[level]
    }
    row["header"] = encode_header(header, INDEXED[level])
    if level is Level.IMAGE:
        row |= _object_cells(record)
    return row


def _key_value(keyword: str, header: Header) -> str:
    """Never NULL: rows are joined by it."""
    value = header.get(keyword, "")
    return clean(trim(value, keyword)) if isinstance(value, str) else ""


def _uids(record: InstanceRecord) -> Header:
    return {
        "SOPInstanceUID": record.SOPInstanceUID,
        "SOPClassUID": record.SOPClassUID,
        "SeriesInstanceUID": record.SeriesInstanceUID,
        "StudyInstanceUID": record.StudyInstanceUID,
    }


def _object_cells(record: InstanceRecord) -> dict[str, ColumnValue]:
    return {
        "TransferSyntaxUID": clean(record.TransferSyntaxUID),
        "tier": record.tier,
        "path": clean(record.path),
        "size": record.size,
        "sha256": record.sha256,
        "source_ae": clean(record.origin.source_ae),
        "receiving_ae": clean(record.origin.receiving_ae),
        "received_at": record.origin.received_at,
        "verified_at": None,
        "located_at": record.origin.received_at,  # since when it is at this tier and path
        "located_by": None,  # the flow run that moved it there
    }
