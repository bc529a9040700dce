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
_LONGEST_MONTH = 31


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


# The bounds of ranges that people and programs write without a calendar: "the 31st" of any month, 24 o'clock. `clamp`
# takes them for the last day of the month and the last microsecond of the day.


def parse_date(text: str, *, clamp: bool = False) -> date | None:
    """A DA value: YYYYMMDD, or YYYY.MM.DD as before DICOM."""
    if not (found := _DATE.fullmatch(text)):
        return None
    year, month, day = (int(part) for part in found.groups() if part is not None)
    try:
        return _date(year, month, day, clamp=clamp)
    except ValueError:
        return None


def parse_time(text: str, *, clamp: bool = False) -> TimeSpan | None:
    """A TM value: HH, HHMM, HHMMSS or HHMMSS.F to .FFFFFF, also with colons as before DICOM."""
    if not (found := _TIME.fullmatch(text)):
        return None
    return _time_span(*found.groups(), clamp=clamp)


def parse_datetime(text: str, *, clamp: bool = False) -> DateTimeSpan | None:
    """A DT value: YYYYMMDDHHMMSS.FFFFFF&ZZXX, cut short anywhere after the year."""
    if not (found := _DATE_TIME.fullmatch(text)):
        return None
    year, month, day, hour, *rest = found.groups()
    offset = rest.pop()
    of_day = _time_span(hour, *rest, clamp=clamp) if hour else TimeSpan(time.min, time.max)
    if of_day is None:
        return None
    try:
        zone = _parse_offset(offset) if offset else None
        first = _date(int(year), int(month or 1), int(day or 1), clamp=clamp)
        last = _date(int(year), int(month or 12), int(day or 31), clamp=clamp or not day)
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


def _date(year: int, month: int, day: int, *, clamp: bool) -> date:
    return date(year, month, min(day, monthrange(year, month)[1]) if clamp and day <= _LONGEST_MONTH else day)


def _time_span(hour: str, minute: str | None, second: str | None, fraction: str | None, *, clamp: bool) -> TimeSpan | None:
    if clamp and hour == "24" and not any(int(part or 0) for part in (minute, second, fraction)):
        return TimeSpan(time.max, time.max)
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
