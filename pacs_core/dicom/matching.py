"""Attribute matching of PS3.4 C.2.2.2: which entities does a query's identifier select? Pure.

`parse_criteria` turns the keys of an identifier into criteria, once per query; each tests headers. The index compiles
the same criteria to SQL, so that an identifier is read in one place only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import lru_cache, partial
from typing import Protocol, TypeVar

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

from pacs_core.dicom.fuzzy import finds, words_of
from pacs_core.dicom.patterns import fold_name_group, is_universal, matches_pattern
from pacs_core.dicom.scan import MAX_INDEXED_DEPTH
from pacs_core.dicom.values import DateTimeSpan, parse_date, parse_datetime, parse_decimal, parse_integer, parse_time
from pacs_core.errors import InvalidIdentifier
from pacs_core.model import Header, HeaderValue

INTEGER_VRS = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "UV"})
DECIMAL_VRS = frozenset({"DS", "FD", "FL"})
_TEXT_VRS = frozenset({"AE", "AS", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"})
_ONE_VALUE_VRS = frozenset({"LT", "ST", "UR", "UT"})  # a backslash is a character like any other, leading spaces count
_NAME_COMPONENTS = 5
_MAX_ALTERNATIVES = 1000  # of one key; each is a condition of its own in SQL, but those of a list of UIDs are one together
_MAX_DATE_TIME_RANGE = 54  # characters (PS3.5 6.2)

_T = TypeVar("_T")

# They say how an identifier is to be read, or where the answer comes from (PS3.4 C.4.1.1.3).
_NOT_KEYS = frozenset({"InstanceAvailability", "QueryRetrieveLevel", "RetrieveAETitle", "SpecificCharacterSet", "TimezoneOffsetFromUTC"})


class Criterion(Protocol):
    """What one key, or a pair of them, demands."""

    def satisfied_by(self, header: Header) -> bool:
        """Whether an entity with that header is selected. An attribute that it lacks satisfies nothing."""


@dataclass(frozen=True, slots=True)
class UIDCriterion:
    """Single value and list of UID matching (C.2.2.2.1, C.2.2.2.2)."""

    keyword: str
    uids: tuple[str, ...]

    def satisfied_by(self, header: Header) -> bool:
        return any(value in self.uids for value in _values(header, self.keyword))


@dataclass(frozen=True, slots=True)
class TextCriterion:
    """Single value and wildcard matching (C.2.2.2.1, C.2.2.2.4), case-sensitive. Several patterns are alternatives."""

    keyword: str
    patterns: tuple[str, ...]

    def satisfied_by(self, header: Header) -> bool:
        return any(matches_pattern(pattern, value) for value in _values(header, self.keyword) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class NameCriterion:
    """Matching of PN, insensitive to case and accents.

    Each alternative is a tuple of patterns for the component groups (PS3.5 6.2.1.2); one of a single pattern may
    match any group.
    """

    keyword: str
    alternatives: tuple[tuple[str, ...], ...]

    def satisfied_by(self, header: Header) -> bool:
        names = [[fold_name_group(group) for group in value.split("=")] for value in _values(header, self.keyword)]
        return any(_name_matches(patterns, groups) for groups in names for patterns in self.alternatives)


@dataclass(frozen=True, slots=True)
class FuzzyNameCriterion:
    """Fuzzy semantic matching of PN (C.2.2.2.1.1): each alternative is the words that a name must have (dicom.fuzzy)."""

    keyword: str
    alternatives: tuple[tuple[str, ...], ...]

    def satisfied_by(self, header: Header) -> bool:
        return any(finds(words, name) for name in _values(header, self.keyword) for words in self.alternatives)


@dataclass(frozen=True, slots=True)
class NumberCriterion:
    """Single value matching of numbers, however they are written."""

    keyword: str
    numbers: tuple[int | float, ...]

    def satisfied_by(self, header: Header) -> bool:
        return any(_parse_number(value, self.keyword) in self.numbers for value in _values(header, self.keyword))


@dataclass(frozen=True, slots=True)
class DateCriterion:
    """Single value and range matching of DA (C.2.2.2.5.1). A bound of None is open."""

    keyword: str
    ranges: tuple[tuple[date | None, date | None], ...]

    def satisfied_by(self, header: Header) -> bool:
        dates = (parse_date(value) for value in _values(header, self.keyword))
        return any(
            (first is None or first <= value) and (last is None or value <= last)
            for value in dates
            if value is not None
            for first, last in self.ranges
        )


@dataclass(frozen=True, slots=True)
class TimeCriterion:
    """Single value and range matching of TM (C.2.2.2.5.2). A bound of None is open."""

    keyword: str
    ranges: tuple[tuple[time | None, time | None], ...]

    def satisfied_by(self, header: Header) -> bool:
        spans = (parse_time(value) for value in _values(header, self.keyword))
        return any(
            (first is None or first <= span.first) and (last is None or span.first <= last)
            for span in spans
            if span is not None
            for first, last in self.ranges
        )


@dataclass(frozen=True, slots=True)
class DateTimeCriterion:
    """Single value and range matching of DT (C.2.2.2.5.3). A bound of None is open.

    Offsets from UTC count where both the bound and the value have one; otherwise local times are compared.
    """

    keyword: str
    ranges: tuple[tuple[DateTimeSpan | None, DateTimeSpan | None], ...]

    def satisfied_by(self, header: Header) -> bool:
        spans = (parse_datetime(value) for value in _values(header, self.keyword))
        return any(
            (first is None or _not_after(first.first, first, span.first, span))
            and (last is None or _not_after(span.first, span, last.last, last))
            for span in spans
            if span is not None
            for first, last in self.ranges
        )


@dataclass(frozen=True, slots=True)
class InstantCriterion:
    """Combined range matching of a date and its time (C.2.2.2.5.4). An entity that lacks either does not match."""

    date_keyword: str
    time_keyword: str
    first: datetime | None
    last: datetime | None

    def satisfied_by(self, header: Header) -> bool:
        day = next(map(parse_date, _values(header, self.date_keyword)), None)
        span = next(map(parse_time, _values(header, self.time_keyword)), None)
        if day is None or span is None:
            return False
        instant = datetime.combine(day, span.first)
        return (self.first is None or self.first <= instant) and (self.last is None or instant <= self.last)


@dataclass(frozen=True, slots=True)
class SequenceCriterion:
    """Sequence matching (C.2.2.2.6): some item satisfies all criteria."""

    keyword: str
    criteria: tuple[Criterion, ...]

    def satisfied_by(self, header: Header) -> bool:
        items = header.get(self.keyword)
        return isinstance(items, list) and any(all(criterion.satisfied_by(item) for criterion in self.criteria) for item in items)


def matches(keys: Header, candidate: Header, *, combined_datetime: bool = False, fuzzy_names: bool = False) -> bool:
    """Whether an entity is selected by an identifier (see `parse_criteria`)."""
    criteria = parse_criteria(keys, combined_datetime=combined_datetime, fuzzy_names=fuzzy_names)
    return all(criterion.satisfied_by(candidate) for criterion in criteria)


def parse_criteria(keys: Header, *, combined_datetime: bool = False, fuzzy_names: bool = False) -> tuple[Criterion, ...]:
    """What the keys of an identifier demand. Keys that match everything demand nothing, nor do unknown keywords.

    Several values are alternatives, for every VR. InvalidIdentifier for a value that cannot be read, too many
    alternatives, and sequences nested deeper than headers hold them.
    """
    return _parse_keys(keys, combined_datetime=combined_datetime, fuzzy_names=fuzzy_names, depth=0)


def _parse_keys(keys: Header, *, combined_datetime: bool, fuzzy_names: bool, depth: int) -> tuple[Criterion, ...]:
    demanding = {keyword: value for keyword, value in keys.items() if keyword not in _NOT_KEYS and not _is_universal(value, keyword)}
    pairs = _date_time_pairs(demanding) if combined_datetime else {}
    paired = pairs.keys() | set(pairs.values())
    criteria = [_parse_instant(demanding, date_keyword, time_keyword) for date_keyword, time_keyword in pairs.items()]
    singles = (_parse_criterion(keyword, value, depth, fuzzy_names) for keyword, value in demanding.items() if keyword not in paired)
    return (*criteria, *(criterion for criterion in singles if criterion is not None))


def _is_universal(value: HeaderValue, keyword: str) -> bool:
    """Whether a text demands nothing. What a sequence demands shows when its items are parsed, once."""
    if isinstance(value, list):
        return not value
    values = split_values(value, keyword)
    return not values or any(is_universal(part) for part in values)


def _parse_criterion(keyword: str, value: HeaderValue, depth: int, fuzzy_names: bool) -> Criterion | None:
    vr = value_representation(keyword)
    if isinstance(value, list) or vr == "SQ":
        return _parse_sequence(keyword, value, vr, depth, fuzzy_names)
    values = split_values(value, keyword)
    if vr == "UI":
        return UIDCriterion(keyword, tuple(values))
    if len(values) > _MAX_ALTERNATIVES:
        raise InvalidIdentifier(f"{keyword} has {len(values)} values, at most {_MAX_ALTERNATIVES} can be matched")
    if vr in _TEXT_VRS:
        return TextCriterion(keyword, tuple(values))
    if vr == "PN":
        return FuzzyNameCriterion(keyword, tuple(map(words_of, values))) if fuzzy_names else _parse_names(keyword, values)
    if vr in INTEGER_VRS or vr in DECIMAL_VRS:
        return NumberCriterion(keyword, tuple(_number(number, keyword) for number in values))
    if vr == "DA":
        return DateCriterion(keyword, tuple(_date_range(text, keyword) for text in values))
    if vr == "TM":
        return TimeCriterion(keyword, tuple(_time_range(text, keyword) for text in values))
    if vr == "DT":
        return DateTimeCriterion(keyword, tuple(_datetime_range(text, keyword) for text in values))
    return None


def _parse_sequence(keyword: str, value: HeaderValue, vr: str, depth: int, fuzzy_names: bool) -> SequenceCriterion | None:
    if vr == "":
        return None
    if not isinstance(value, list) or vr != "SQ":
        raise InvalidIdentifier(f"{keyword} has VR {vr}, which its value in the identifier does not fit")
    if depth >= MAX_INDEXED_DEPTH:
        raise InvalidIdentifier(f"{keyword} is nested in more than {MAX_INDEXED_DEPTH - 1} sequences")
    parsed = (_parse_keys(item, combined_datetime=False, fuzzy_names=fuzzy_names, depth=depth + 1) for item in value)
    items = [criteria for criteria in parsed if criteria]
    if len(items) > 1:
        raise InvalidIdentifier(f"{keyword} may have one item in an identifier (PS3.4 C.2.2.2.6)")
    return SequenceCriterion(keyword, items[0]) if items else None


def _parse_names(keyword: str, values: list[str]) -> NameCriterion | None:
    names = tuple(tuple(fold_name_group(group) for group in value.split("=")[:3]) for value in values)
    return None if any(all(map(is_universal, patterns)) for patterns in names) else NameCriterion(keyword, names)


def _name_matches(patterns: tuple[str, ...], groups: list[str]) -> bool:
    if len(patterns) == 1:
        return any(_group_matches(patterns[0], group) for group in groups)
    padded = groups + [""] * (len(patterns) - len(groups))
    return all(is_universal(pattern) or _group_matches(pattern, group) for pattern, group in zip(patterns, padded, strict=False))


def _group_matches(pattern: str, group: str) -> bool:
    if not group:
        return False
    # "Doe^*" means whoever is called Doe, also where nothing but the family name was entered.
    complete = group + "^" * (_NAME_COMPONENTS - 1 - group.count("^"))
    return matches_pattern(pattern, group) or matches_pattern(pattern, complete)


def _number(text: str, keyword: str) -> int | float:
    number = _parse_number(text, keyword)
    if number is None:
        raise InvalidIdentifier(f"{keyword} cannot be matched: it must be a number (PS3.5 6.2)")
    return number


def _parse_number(text: str, keyword: str) -> int | float | None:
    return parse_integer(text) if value_representation(keyword) in INTEGER_VRS else parse_decimal(text)


def _date_range(text: str, keyword: str) -> tuple[date | None, date | None]:
    first, last = _split_range(text, keyword)
    parse = partial(parse_date, clamp=_is_range(text))
    return _required(parse, first, keyword), _required(parse, last, keyword)


def _time_range(text: str, keyword: str) -> tuple[time | None, time | None]:
    parse = partial(parse_time, clamp=_is_range(text))
    first, last = (_required(parse, part, keyword) for part in _split_range(text, keyword))
    return (first.first if first else None), (last.last if last else None)


def _datetime_range(text: str, keyword: str) -> tuple[DateTimeSpan | None, DateTimeSpan | None]:
    """A hyphen also begins an offset from UTC: the text is a range only where it is not one value."""
    if single := parse_datetime(text):
        return single, single
    hyphens = (index for index, character in enumerate(text) if character == "-")
    is_range = len(text) <= _MAX_DATE_TIME_RANGE and not parse_datetime(text, clamp=True)  # nor one value of no calendar
    for position in hyphens if is_range else ():
        first, last = text[:position].strip(), text[position + 1 :].strip()
        spans = parse_datetime(first, clamp=True), parse_datetime(last, clamp=True)
        if (first or last) and bool(first) == bool(spans[0]) and bool(last) == bool(spans[1]):
            return spans
    raise InvalidIdentifier(f"{keyword} cannot be matched: it must be a date and time or a range (PS3.4 C.2.2.2.5)")


def _is_range(text: str) -> bool:
    return "-" in text


def _split_range(text: str, keyword: str) -> tuple[str, str]:
    first, hyphen, last = (part.strip() for part in text.partition("-"))
    if hyphen and not (first or last):
        raise InvalidIdentifier(f"{keyword} cannot be matched: a range needs a bound (PS3.4 C.2.2.2.5)")
    return (first, last) if hyphen else (first, first)


def _required(parse: Callable[[str], _T | None], text: str, keyword: str) -> _T | None:
    """A bound of a range: None where it is open."""
    if not text:
        return None
    value = parse(text)
    if value is None:
        raise InvalidIdentifier(f"{keyword} cannot be matched: {text[:30]!r} is not a {value_representation(keyword)} value (PS3.5 6.2)")
    return value


def _not_after(earlier: datetime, earlier_span: DateTimeSpan, later: datetime, later_span: DateTimeSpan) -> bool:
    if earlier_span.offset is None or later_span.offset is None:
        return earlier <= later
    return earlier.replace(tzinfo=earlier_span.offset) <= later.replace(tzinfo=later_span.offset)


def _date_time_pairs(keys: Header) -> dict[str, str]:
    """Date keys and the time keys that belong to them, where both demand something."""
    pairs = {keyword: keyword.removesuffix("Date") + "Time" for keyword in keys if value_representation(keyword) == "DA"}
    return {day: of_day for day, of_day in pairs.items() if of_day in keys and value_representation(of_day) == "TM"}


def _parse_instant(keys: Header, date_keyword: str, time_keyword: str) -> InstantCriterion:
    """One range from the first date at the first time to the last date at the last time."""
    days = [_date_range(text, date_keyword) for text in _query_values(keys[date_keyword], date_keyword)]
    times = [_time_range(text, time_keyword) for text in _query_values(keys[time_keyword], time_keyword)]
    if len(days) != 1 or len(times) != 1:
        raise InvalidIdentifier(f"{date_keyword} and {time_keyword} must be one value or range each to be combined (PS3.4 C.2.2.2.5.4)")
    (first_day, last_day), (first_time, last_time) = days[0], times[0]
    return InstantCriterion(
        date_keyword,
        time_keyword,
        datetime.combine(first_day, first_time or time.min) if first_day else None,
        datetime.combine(last_day, last_time or time.max) if last_day else None,
    )


def _query_values(value: HeaderValue, keyword: str) -> list[str]:
    if isinstance(value, list):
        raise InvalidIdentifier(f"{keyword} is not a sequence")
    return split_values(value, keyword)


def _values(header: Header, keyword: str) -> list[str]:
    """A stored attribute's values. What may have one value only is one, whatever characters it holds."""
    value = header.get(keyword)
    if not isinstance(value, str):
        return []
    if is_multiple(keyword):
        return split_values(value, keyword)
    return [trimmed] if (trimmed := trim(value, keyword)) else []


def split_values(value: str, keyword: str) -> list[str]:
    """The values without insignificant spaces (PS3.5 6.2), empty ones left out."""
    parts = [value] if value_representation(keyword) in _ONE_VALUE_VRS else value.split("\\")
    return [trimmed for part in parts if (trimmed := trim(part, keyword))]


def trim(value: str, keyword: str) -> str:
    """The value without insignificant spaces and padding."""
    return value.rstrip(" \0") if value_representation(keyword) in _ONE_VALUE_VRS else value.strip(" \0")


@lru_cache(maxsize=4096)
def value_representation(keyword: str) -> str:
    """The VR (PS3.6), or "" for a keyword that it does not have."""
    tag = tag_for_keyword(keyword)
    return "" if tag is None else dictionary_VR(tag)


@lru_cache(maxsize=4096)
def is_multiple(keyword: str) -> bool:
    """Whether the attribute may have several values (PS3.6)."""
    tag = tag_for_keyword(keyword)
    return tag is not None and dictionary_VM(tag) != "1"
