"""Queries compiled to SQL. Pure: nothing here talks to a database.

A query's keys count at its own level and the levels above (PS3.4 C.4.1.2.2.1). Of the levels below, ModalitiesInStudy
and SOPClassesInStudy, which summarise them, can be matched; keys that are not indexed, or below, are ignored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pacs_core.dicom.attributes import COMPUTED, INDEXED, LEVEL_OF
from pacs_core.dicom.matching import Criterion, TextCriterion, UIDCriterion, parse_criteria, split_values, trim, value_representation
from pacs_core.errors import InvalidIdentifier
from pacs_core.index.conditions import Condition, all_of, condition
from pacs_core.model import Header, Level, Query

_LEVELS = tuple(Level)
_ALIASES = {Level.PATIENT: "p", Level.STUDY: "t", Level.SERIES: "s", Level.IMAGE: "i"}

_JOINS: Mapping[Level, str] = {
    Level.PATIENT: "lake.patient p",
    Level.STUDY: "JOIN lake.study t ON t.PatientID = p.PatientID AND t.IssuerOfPatientID = p.IssuerOfPatientID",
    Level.SERIES: "JOIN lake.series s ON s.StudyInstanceUID = t.StudyInstanceUID",
    Level.IMAGE: "JOIN lake.instance i ON i.StudyInstanceUID = s.StudyInstanceUID AND i.SeriesInstanceUID = s.SeriesInstanceUID",
}

# The lower tables that repeat a key: a condition on it is put on each of them, so that each is read only in part.
_REPEATED: Mapping[str, tuple[Level, ...]] = {
    "PatientID": (Level.PATIENT, Level.STUDY),
    "IssuerOfPatientID": (Level.PATIENT, Level.STUDY),
    "StudyInstanceUID": (Level.STUDY, Level.SERIES, Level.IMAGE),
    "SeriesInstanceUID": (Level.SERIES, Level.IMAGE),
}

_STUDIES_OF_PATIENT = "x.PatientID = p.PatientID AND x.IssuerOfPatientID = p.IssuerOfPatientID"
_COMPUTED: Mapping[str, str] = {
    "NumberOfPatientRelatedStudies": f"SELECT count(*) FROM lake.study x WHERE {_STUDIES_OF_PATIENT}",  # noqa: S608 constants
    "NumberOfPatientRelatedSeries": (
        f"SELECT count(*) FROM lake.study x JOIN lake.series y ON y.StudyInstanceUID = x.StudyInstanceUID WHERE {_STUDIES_OF_PATIENT}"  # noqa: S608 constants
    ),
    "NumberOfPatientRelatedInstances": (
        f"SELECT count(*) FROM lake.study x JOIN lake.instance y ON y.StudyInstanceUID = x.StudyInstanceUID WHERE {_STUDIES_OF_PATIENT}"  # noqa: S608 constants
    ),
    "ModalitiesInStudy": (
        "SELECT string_agg(DISTINCT x.Modality, '\\' ORDER BY x.Modality) FROM lake.series x WHERE x.StudyInstanceUID = t.StudyInstanceUID"
    ),
    "SOPClassesInStudy": (
        "SELECT string_agg(DISTINCT x.SOPClassUID, '\\' ORDER BY x.SOPClassUID) FROM lake.instance x"
        " WHERE x.StudyInstanceUID = t.StudyInstanceUID"
    ),
    "NumberOfStudyRelatedSeries": "SELECT count(*) FROM lake.series x WHERE x.StudyInstanceUID = t.StudyInstanceUID",
    "NumberOfStudyRelatedInstances": "SELECT count(*) FROM lake.instance x WHERE x.StudyInstanceUID = t.StudyInstanceUID",
    "NumberOfSeriesRelatedInstances": (
        "SELECT count(*) FROM lake.instance x WHERE x.StudyInstanceUID = s.StudyInstanceUID AND x.SeriesInstanceUID = s.SeriesInstanceUID"
    ),
}

# What the summarising keys are matched against: the table and its column.
_SUMMARISED = {"ModalitiesInStudy": ("lake.series", "Modality"), "SOPClassesInStudy": ("lake.instance", "SOPClassUID")}


@dataclass(frozen=True, slots=True)
class FindStatement:
    """A compiled query.

    Attributes:
        sql: selects the headers of `levels`, then the `computed` attributes.
        criteria: what the rows must still satisfy.
    """

    sql: str
    parameters: tuple[object, ...]
    levels: tuple[Level, ...]
    computed: tuple[str, ...]
    criteria: tuple[Criterion, ...]


def compile_find(query: Query) -> FindStatement:
    """A query as one statement. InvalidIdentifier for a key whose value cannot be matched."""
    levels = levels_down_to(query.level)
    computed = tuple(keyword for level in levels for keyword in COMPUTED[level] if keyword in query.keys)
    criteria = parse_criteria(_matching_keys(query, levels), combined_datetime=query.combined_datetime, fuzzy_names=query.fuzzy_names)
    conditions = [(criterion, _condition(criterion, levels)) for criterion in criteria]
    where = all_of([compiled for _, compiled in conditions])
    headers = [f"{_ALIASES[level]}.header" for level in levels]
    columns = [*headers, *(f"({_COMPUTED[keyword]})" for keyword in computed)]
    return FindStatement(
        sql=f"SELECT {', '.join(columns)} FROM {_from(levels)} WHERE {where.sql}",  # noqa: S608 no values
        parameters=where.parameters,
        levels=levels,
        computed=computed,
        criteria=tuple(criterion for criterion, compiled in conditions if not compiled.exact),
    )


def levels_down_to(level: Level) -> tuple[Level, ...]:
    """The level and the ones above, from the top."""
    return _LEVELS[: _LEVELS.index(level) + 1]


def _matching_keys(query: Query, levels: Sequence[Level]) -> Header:
    matchable = {keyword for level in levels for keyword in INDEXED[level]}
    if Level.STUDY in levels:
        matchable |= _SUMMARISED.keys()
    return {keyword: value for keyword, value in query.keys.items() if keyword in matchable}


def _condition(criterion: Criterion, levels: Sequence[Level]) -> Condition:
    if isinstance(criterion, (TextCriterion, UIDCriterion)) and criterion.keyword in _SUMMARISED:
        return _summary_condition(criterion)
    if isinstance(criterion, (TextCriterion, UIDCriterion)) and criterion.keyword in _REPEATED:
        tables = [level for level in _REPEATED[criterion.keyword] if level in levels]
        return all_of([condition(criterion, partial(_column_of, level)) for level in tables])
    return condition(criterion, _column)


def _column_of(level: Level, keyword: str) -> str:
    return f'{_ALIASES[level]}."{keyword}"'


def _column(keyword: str) -> str:
    return _column_of(LEVEL_OF[keyword], "header" if value_representation(keyword) == "SQ" else keyword)


def _summary_condition(criterion: TextCriterion | UIDCriterion) -> Condition:
    """Some entity below the study has the value (PS3.4 C.3.4)."""
    table, column = _SUMMARISED[criterion.keyword]
    below = condition(replace(criterion, keyword=column), lambda keyword: f"x.{keyword}")
    return replace(below, sql=f"EXISTS (SELECT 1 FROM {table} x WHERE x.StudyInstanceUID = t.StudyInstanceUID AND {below.sql})")  # noqa: S608 constants


def _from(levels: Iterable[Level]) -> str:
    return " ".join(_JOINS[level] for level in levels)


@dataclass(frozen=True, slots=True)
class Named:
    """What a retrieve wants: the instances that are in one of each level's UIDs. An empty tuple is any.

    Attributes:
        patient: PatientID and IssuerOfPatientID, "" for any.
    """

    patient: tuple[str, str]
    studies: tuple[str, ...]
    series: tuple[str, ...]
    instances: tuple[str, ...]


def parse_named(query: Query) -> Named:
    """The entities that the unique keys of a retrieve name (PS3.4 C.4.2.1.4.1).

    At the query's level a list of UIDs is allowed. InvalidIdentifier where the unique key of the level is missing, or
    one of a level above has several values.
    """
    named = {level: _unique_values(query, level) for level in levels_down_to(query.level)}
    if not named[query.level]:
        raise InvalidIdentifier(f"a retrieve at level {query.level} needs {query.level.key} (PS3.4 C.4.2.1.4.1)")
    patient = next(iter(named[Level.PATIENT]), "")
    return Named(
        patient=(patient, _unique_value(query, "IssuerOfPatientID") if patient else ""),
        studies=named.get(Level.STUDY, ()),
        series=named.get(Level.SERIES, ()),
        instances=named.get(Level.IMAGE, ()),
    )


def _unique_values(query: Query, level: Level) -> tuple[str, ...]:
    """The values of a level's unique key; PatientID is one value whatever it holds."""
    value = _unique_value(query, level.key)
    if level is Level.PATIENT:
        return (value,) if value else ()
    values = tuple(split_values(value, level.key))
    if len(values) > 1 and level is not query.level:
        raise InvalidIdentifier(f"{level.key} must have one value in a retrieve at level {query.level} (PS3.4 C.4.2.2.1)")
    return values


def _unique_value(query: Query, keyword: str) -> str:
    value = query.keys.get(keyword, "")
    if not isinstance(value, str):
        raise InvalidIdentifier(f"{keyword} is not a sequence")
    return trim(value, keyword)
