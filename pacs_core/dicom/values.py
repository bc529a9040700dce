"""Dates, times and numbers in DICOM's textual form (PS3.5 6.2). Pure; what is malformed is None, never an error.

A date or time may be imprecise ("10" is the hour from ten to eleven), so it parses to a span: its first and its last
microsecond. A stored value counts as its first.
"""

import math
import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone

_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})|([0-9]{4})\.([0-9]{2})\.([0-9]{2})")
_TIME = re.compile(r"([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2})(?:\.([0-9]{1,6}))?)?)?")
_DATE_TIME = re.compile(
    r"([0-9]{4})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:\.([0-9]{1,6}))?)?)?)?)?)?([+-][0-9]{4})?"
)
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """The first and the last microsecond that a TM value can mean."""

    first: time
    last: time


@dataclass(frozen=True, slots=True)
class DateTimeSpan:
    """The first and the last microsecond that a DT value can mean: local, `offset` from UTC where it is given."""

    first: datetime
    last: datetime
    offset: timezone | None = None


def parse_date(text: str) -> date | None:
    """A DA value: YYYYMMDD, or YYYY.MM.DD as before DICOM."""
    if not (found := _DATE.fullmatch(text)):
        return None
    year, month, day = (int(part) for part in found.groups() if part is not None)
    try:
        return date(year, month, day)
    except ValueError:
        return None


def parse_time(text: str) -> TimeSpan | None:
    """A TM value: HH, HHMM, HHMMSS or HHMMSS.F to .FFFFFF, also with colons as before DICOM."""
    if not (found := _TIME.fullmatch(text)):
        return None
    return _time_span(*found.groups())


def parse_datetime(text: str) -> DateTimeSpan | None:
    """A DT value: YYYYMMDDHHMMSS.FFFFFF&ZZXX, cut short anywhere after the year."""
    if not (found := _DATE_TIME.fullmatch(text)):
        return None
    year, month, day, hour, *rest = found.groups()
    offset = rest.pop()
    of_day = _time_span(hour, *rest) if hour else TimeSpan(time.min, time.max)
    if of_day is None:
        return None
    try:
        zone = _parse_offset(offset) if offset else None
        first = date(int(year), int(month or 1), int(day or 1))
        last_month = int(month or 12)
        last = date(int(year), last_month, int(day or monthrange(int(year), last_month)[1]))
    except ValueError:
        return None
    return DateTimeSpan(datetime.combine(first, of_day.first), datetime.combine(last, of_day.last), zone)


def parse_integer(text: str) -> int | None:
    """An IS value that fits into 64 bits."""
    if not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return value if -_INT64 <= value < _INT64 else None


def parse_decimal(text: str) -> float | None:
    """A DS value that is finite as a double."""
    if not _DECIMAL.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _time_span(hour: str, minute: str | None, second: str | None, fraction: str | None) -> TimeSpan | None:
    if second == "60":  # a leap second (PS3.5 6.2): no clock of ours has it, so it counts as the end of the minute
        second, fraction = "59", "999999"
    try:
        first = time(int(hour), int(minute or 0), int(second or 0), int((fraction or "").ljust(6, "0")))
        last = time(int(hour), int(minute or 59), int(second or 59), int((fraction or "").ljust(6, "9")))
    except ValueError:
        return None
    return TimeSpan(first, last)


def _parse_offset(text: str) -> timezone:
    """An offset from UTC, -1200 to +1400 (PS3.5 6.2); ValueError outside."""
    hours, minutes = int(text[1:3]), int(text[3:5])
    seconds = (hours * 60 + minutes) * (-60 if text[0] == "-" else 60)
    if minutes > 59 or not -12 * 3600 <= seconds <= 14 * 3600:
        raise ValueError(text)
    return timezone(timedelta(seconds=seconds))
