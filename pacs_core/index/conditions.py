"""Criteria of an identifier as SQL conditions. Pure.

A condition never refuses a row that its criterion accepts. Where it may accept more (names, attributes of several
values, offsets from UTC, sequences), it says so, and the criterion itself decides on the rows that are left.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import singledispatch

from pacs_core.dicom.fuzzy import SEPARATORS, mistakes_allowed
from pacs_core.dicom.matching import (
    Criterion,
    DateCriterion,
    DateTimeCriterion,
    FuzzyNameCriterion,
    InstantCriterion,
    NameCriterion,
    NumberCriterion,
    SequenceCriterion,
    TextCriterion,
    TimeCriterion,
    UIDCriterion,
    is_multiple,
)
from pacs_core.dicom.patterns import WILDCARDS
from pacs_core.dicom.values import DateTimeSpan
from pacs_core.index.texts import TEXTS, texts

# DuckDB's LIKE goes back to every `%` it has passed: more of them in one pattern cost more than they exclude.
_MAX_RUNS = 3
# Two local times whose offsets from UTC differ as much as offsets can (PS3.5 6.2: -1200 to +1400).
_OFFSETS = timedelta(hours=26)


@dataclass(frozen=True, slots=True)
class Condition:
    """A SQL expression with `?` for each parameter. `exact`: it accepts what the criterion accepts and nothing else."""

    sql: str
    parameters: tuple[object, ...]
    exact: bool = True


# Keyword to SQL column, qualified; of a sequence, to the header of its level.
ColumnOf = Callable[[str], str]


@singledispatch
def condition(criterion: Criterion, column_of: ColumnOf) -> Condition:
    """The condition for one criterion; `column_of` names the columns of the query at hand."""
    raise TypeError(criterion, column_of)


@condition.register
def _(criterion: UIDCriterion, column_of: ColumnOf) -> Condition:
    """A long list is one parameter: thousands of marks would be planned one by one."""
    column = column_of(criterion.keyword)
    if len(criterion.uids) == 1:
        return Condition(f"{column} = ?", criterion.uids)
    return Condition(f"{column} IN (SELECT {TEXTS})", (texts(criterion.uids),))


@condition.register
def _(criterion: TextCriterion, column_of: ColumnOf) -> Condition:
    column = column_of(criterion.keyword)
    if is_multiple(criterion.keyword):
        within = [_like(column, "*" + pattern + "*") for pattern in criterion.patterns]
        return _any_of(within, exact=False)
    return _any_of([_like(column, pattern) for pattern in criterion.patterns])


@condition.register
def _(criterion: NameCriterion, column_of: ColumnOf) -> Condition:
    """Some group of the name contains what is between the wildcards and component delimiters, in that order."""
    column = f"lower(strip_accents({column_of(criterion.keyword)}))"
    longest = (max(groups, key=len) for groups in criterion.alternatives)
    return _any_of([_like(column, "*" + pattern.replace("^", "*") + "*") for pattern in longest], exact=False)


@condition.register
def _(criterion: FuzzyNameCriterion, column_of: ColumnOf) -> Condition:
    """Each word of an alternative is like a word of the name."""
    separators = SEPARATORS.replace("'", "''")
    column = f"string_split_regex(lower(strip_accents({column_of(criterion.keyword)})), '{separators}')"
    alternatives = [all_of([_word_like(column, word) for word in words]) for words in criterion.alternatives]
    return _any_of(alternatives, exact=False)


def _word_like(words: str, word: str) -> Condition:
    like = _like("w", word + "*")
    allowed = mistakes_allowed(word)
    if not allowed:
        return Condition(f"len(list_filter({words}, lambda w: {like.sql})) > 0", like.parameters)
    # DuckDB counts bytes: a letter of several may cost as many.
    most = f"{allowed + len(word.encode()) - len(word)} + strlen(w) - length(w)"
    return Condition(
        f"len(list_filter({words}, lambda w: {like.sql} OR damerau_levenshtein(w, ?) <= {most})) > 0", (*like.parameters, word)
    )


@condition.register
def _(criterion: NumberCriterion, column_of: ColumnOf) -> Condition:
    marks = ", ".join("?" * len(criterion.numbers))
    return Condition(f"{column_of(criterion.keyword)} IN ({marks})", criterion.numbers)


@condition.register
def _(criterion: DateCriterion, column_of: ColumnOf) -> Condition:
    return _any_of([_between(column_of(criterion.keyword), first, last) for first, last in criterion.ranges])


@condition.register
def _(criterion: TimeCriterion, column_of: ColumnOf) -> Condition:
    return _any_of([_between(column_of(criterion.keyword), first, last) for first, last in criterion.ranges])


@condition.register
def _(criterion: DateTimeCriterion, column_of: ColumnOf) -> Condition:
    column = column_of(criterion.keyword)
    return _any_of([_datetime_between(column, first, last) for first, last in criterion.ranges])


@condition.register
def _(criterion: InstantCriterion, column_of: ColumnOf) -> Condition:
    instant = f"({column_of(criterion.date_keyword)} + {column_of(criterion.time_keyword)})"
    return _between(instant, criterion.first, criterion.last)


@condition.register
def _(criterion: SequenceCriterion, column_of: ColumnOf) -> Condition:
    """There is such a sequence and it has an item: headers are written without spaces, and quotes in text are escaped."""
    return Condition(f"contains({column_of(criterion.keyword)}, ?)", (f'"{criterion.keyword}":[{{',), exact=False)


def all_of(conditions: Sequence[Condition]) -> Condition:
    """The conjunction; of none it is true."""
    sql = " AND ".join(part.sql for part in conditions) or "true"
    parameters = tuple(parameter for part in conditions for parameter in part.parameters)
    return Condition(sql, parameters, all(part.exact for part in conditions))


def _like(column: str, pattern: str) -> Condition:
    if not WILDCARDS.search(pattern):
        return Condition(f"{column} = ?", (pattern,))
    head, *pieces = re.split(r"\*+", pattern)
    exact = len(pieces) <= _MAX_RUNS
    kept = [head, *pieces] if exact else [head, *pieces[: _MAX_RUNS - 1], ""]
    translated = "%".join(re.sub(r"[%_\\]", r"\\\g<0>", piece).replace("?", "_") for piece in kept)
    escape = r" ESCAPE '\'" if "\\" in translated else ""
    return Condition(f"{column} LIKE ?{escape}", (translated,), exact)


def _between(expression: str, first: object, last: object) -> Condition:
    bounds = [(f"{expression} {operator} ?", bound) for operator, bound in ((">=", first), ("<=", last)) if bound is not None]
    return Condition("(" + " AND ".join(sql for sql, _ in bounds) + ")", tuple(bound for _, bound in bounds))


def _datetime_between(column: str, first: DateTimeSpan | None, last: DateTimeSpan | None) -> Condition:
    """Local times; a bound with an offset is widened, because the value's own offset is not in the column."""
    zoned = (first is not None and first.offset is not None) or (last is not None and last.offset is not None)
    margin = _OFFSETS if zoned else timedelta()
    try:
        lower, upper = first and first.first - margin, last and last.last + margin
    except OverflowError:  # at the ends of the calendar
        return Condition(f"{column} IS NOT NULL", (), exact=False)
    return replace(_between(column, lower, upper), exact=not zoned)


def _any_of(conditions: Sequence[Condition], *, exact: bool = True) -> Condition:
    sql = " OR ".join(alternative.sql for alternative in conditions)
    parameters = tuple(parameter for alternative in conditions for parameter in alternative.parameters)
    return Condition(f"({sql})", parameters, exact and all(alternative.exact for alternative in conditions))
