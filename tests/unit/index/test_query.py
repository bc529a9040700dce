"""The law of queries: what SQL selects is what the matcher of PS3.4 C.2.2.2 selects."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import create_autospec

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacs_core.dicom.matching import matches
from pacs_core.errors import InvalidIdentifier
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.keys import locate
from pacs_core.index.lake import LakeReader
from pacs_core.index.postgres import Database, Session
from pacs_core.index.query import compile_find, parse_named
from pacs_core.index.reader import LakeIndexReader
from pacs_core.model import Header, HeaderValue, Level, Query
from tests.support.records import CT_IMAGE, record
from tests.unit.index.conftest import Place

TEXTS = ["CHEST", "Chest", "CHEST AND ABD", "50% O_K\\no", "ü", "", "  CHEST ", "[CT]", 'say "x":[{', "*", "日本"]
NAMES = [
    "Doe^Jane",
    "DOE^JANE^^",
    "Müller^José",
    "Muller^Jose",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "Doe",
    "Doe ^ Jane",
    "=山田",
    "İstanbul",
    "김^철",
]
DATES = ["20200101", "2020.01.01", "20200615", "19991231", "", "2020", "99999999", "20200101\\20200615"]
TIMES = ["10", "1030", "103015.25", "10:30:15", "000000", "235960", "", "noon"]
DATE_TIMES = ["20200101103015.25", "20200101103015+0500", "2020", "20200101-0500", "", "x", "00010101", "99991231235959.999999-1200"]
NUMBERS = ["1", "01", "+1", "2", "10", "", "one", "1.0", "99999999999999999999"]
DECIMALS = ["70", "70.0", "7e1", "1e999", "", "x"]
CODES: list[list[Header]] = [[], [{"PatientID": "A"}], [{"PatientID": "A", "IssuerOfPatientID": "X"}, {"PatientID": "B"}], [{}]]

VALUES: dict[Level, dict[str, list[HeaderValue]]] = {
    Level.PATIENT: {
        "PatientID": ["P1", "p1", "P1 ", "", "P%1"],
        "PatientName": [*NAMES],
        "PatientBirthDate": [*DATES],
        "OtherPatientIDs": ["A", "A\\B1", "B1", "", "AB1"],
        "OtherPatientNames": ["Doe^Jane\\Roe^Ann", "Müller", ""],
        "PatientComments": [*TEXTS],
        "OtherPatientIDsSequence": [*CODES],
    },
    Level.STUDY: {
        "StudyDate": [*DATES],
        "StudyTime": [*TIMES],
        "StudyDescription": [*TEXTS],
        "ReferringPhysicianName": [*NAMES],
        "PatientWeight": [*DECIMALS],
    },
    Level.SERIES: {"SeriesNumber": [*NUMBERS], "Modality": ["CT", "MR", "", "ct"], "SeriesDate": [*DATES], "SeriesTime": [*TIMES]},
    Level.IMAGE: {"AcquisitionDateTime": [*DATE_TIMES], "InstanceNumber": [*NUMBERS], "ImageType": ["ORIGINAL\\PRIMARY", "DERIVED", ""]},
}
KEYS: dict[str, list[HeaderValue]] = {
    "PatientID": ["P1", "P*", "?1", "p1\\P1", "", "P%1", "P%*"],
    "PatientName": [
        *NAMES,
        "doe*",
        "*jane",
        "Doe^*",
        "*^*",
        "d?e*",
        "=山*",
        "*=山田^太郎",
        "müll*",
        "MULLER*\\doe*",
        "?",
        "",
        "^",
        "*o*e*a*n*e*",
    ],
    "PatientBirthDate": ["20200101", "20200101-", "-20200101", "19990101-20200102", "2020.01.01"],
    "OtherPatientIDs": ["B1", "A", "?1", "*B*", "B"],
    "OtherPatientNames": ["roe*", "doe^jane", "muller"],
    "PatientComments": ["CHEST", "*EST*", "50% O_K\\no", "50% O?K*", "  CHEST", "*\\n?"],
    "OtherPatientIDsSequence": [[], [{}], [{"PatientID": "B"}], [{"PatientID": "A", "IssuerOfPatientID": "X"}], [{"PatientID": "?"}]],
    "StudyDate": ["20200101", "20200101-", "-20200614", "20200101-20200615", "20200101\\20200615"],
    "StudyTime": ["10", "1030", "10-", "-1030", "1030-103015", "2359", "10:30:15"],
    "StudyDescription": [*TEXTS, "CHEST*", "*%*", "?", "*_K*", "[*", "C*H*E*S*T*"],
    "ReferringPhysicianName": ["doe^jane", "=*太*", "istanbul", "김*"],
    "PatientWeight": ["70", "7e1", "71"],
    "SeriesNumber": ["1", "01", "2\\10"],
    "Modality": ["CT", "C*", "CT\\MR", "?T"],
    "SeriesDate": ["20200101-20200615"],
    "SeriesTime": ["1000-1100"],
    "AcquisitionDateTime": [
        "2020",
        "20200101-",
        "-2020",
        "20200101103015+0000",
        "20200101050000+0000-20200101060000+0000",
        "00010101+1400-",
        "-99991231-1200",
    ],
    "InstanceNumber": ["1", "2\\10"],
    "ImageType": ["PRIMARY", "DERIVED", "*G*", "ORIGINAL\\DERIVED"],
    "ModalitiesInStudy": ["CT", "M*", "CT\\MR", ""],
    "SOPClassesInStudy": ["1.2.840.10008.5.1.4.1.1.2", "1.2.3"],
    "NumberOfStudyRelatedInstances": ["", "7"],
    "StudyInstanceUID": ["1.1", "1.1\\1.3\\1.5", "1.*"],
    "NoSuchKeyword": ["x"],
}

STUDIES = 300
MATCHABLE = {"ModalitiesInStudy": Level.STUDY, "SOPClassesInStudy": Level.STUDY, "StudyInstanceUID": Level.STUDY}
MATCHABLE |= {keyword: level for level, table in VALUES.items() for keyword in table}

queries = st.builds(
    Query,
    level=st.sampled_from(list(Level)),
    keys=st.sets(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3).flatmap(
        lambda chosen: st.fixed_dictionaries({key: st.sampled_from(KEYS[key]) for key in chosen})
    ),
    combined_datetime=st.booleans(),
    fuzzy_names=st.booleans(),
)


def odd_headers() -> list[Header]:
    """Headers of instances that each have a patient of their own, so that an entity of any level is one of them."""
    choose = random.Random(1)  # noqa: S311 the same headers each time
    headers: list[Header] = []
    for number in range(STUDIES):
        header: Header = {key: choose.choice(values) for table in VALUES.values() for key, values in table.items() if choose.random() < 0.9}
        headers.append(header | {"IssuerOfPatientID": str(number), "StudyInstanceUID": f"1.{number}"})
    return headers


@pytest.fixture(scope="module")
def indexed(new_place: Callable[[], Place]) -> Iterator[tuple[LakeIndexReader, list[Header]]]:
    headers = odd_headers()
    place = new_place()
    writer = LakeIndexWriter(place.catalog_url, place.data_path)
    base = [record(1, study=str(header["StudyInstanceUID"]), series=f"{header['StudyInstanceUID']}.1") for header in headers]
    writer.commit([replace(item, header=header) for item, header in zip(base, headers, strict=True)])
    writer.close()
    reader = LakeIndexReader(LakeReader(place.catalog_url, place.data_path), Database(place.catalog_url))
    yield reader, headers
    reader.close()


def expected(query: Query, headers: list[Header]) -> list[str]:
    above = {level for level in Level if list(Level).index(level) <= list(Level).index(query.level)}
    keys = {key: value for key, value in query.keys.items() if MATCHABLE.get(key) in above}
    found = []
    for header in headers:
        candidate = header | {"ModalitiesInStudy": header.get("Modality", ""), "SOPClassesInStudy": CT_IMAGE}
        if matches(keys, candidate, combined_datetime=query.combined_datetime, fuzzy_names=query.fuzzy_names):
            found.append(str(header["IssuerOfPatientID"]))
    return sorted(found)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(query=queries)
def test_sql_selects_what_the_matcher_selects(indexed: tuple[LakeIndexReader, list[Header]], query: Query) -> None:
    reader, headers = indexed
    try:
        wanted = expected(query, headers)
    except InvalidIdentifier:  # several dates cannot be combined with a time
        with pytest.raises(InvalidIdentifier):
            list(reader.find(query))
    else:
        assert sorted(str(found["IssuerOfPatientID"]) for found in reader.find(query)) == wanted


@pytest.mark.parametrize(("keyword", "value"), [(keyword, value) for keyword, values in KEYS.items() for value in values])
def test_sql_selects_what_the_matcher_selects_for_each_key_alone(
    indexed: tuple[LakeIndexReader, list[Header]], keyword: str, value: HeaderValue
) -> None:
    reader, headers = indexed
    query = Query(Level.IMAGE, {keyword: value})
    assert sorted(str(found["IssuerOfPatientID"]) for found in reader.find(query)) == expected(query, headers)


def test_values_are_parameters_and_never_part_of_the_statement() -> None:
    hostile = "'; DROP TABLE lake.study; --"
    keys: Header = {"PatientID": hostile, "PatientName": hostile, "StudyDescription": hostile + "*", "StudyInstanceUID": hostile}
    assert "DROP" not in compile_find(Query(Level.IMAGE, keys)).sql
    session = create_autospec(Session, instance=True)
    session.run.return_value = [[None]]
    locate(session, studies=[hostile], series=[hostile], instances=[hostile])
    assert "DROP" not in session.run.call_args.args[0]


def test_a_criterion_that_sql_decides_is_not_decided_twice() -> None:
    keys: Header = {"StudyInstanceUID": "1\\2", "StudyDate": "20200101-", "StudyDescription": "A*B", "ModalitiesInStudy": "C*"}
    assert compile_find(Query(Level.STUDY, keys)).criteria == ()


def test_only_the_tables_of_the_level_and_above_are_read() -> None:
    assert "lake.series" not in compile_find(Query(Level.STUDY, {"SeriesDescription": "x"})).sql


@pytest.mark.parametrize(
    "query",
    [
        Query(Level.STUDY, {}),
        Query(Level.SERIES, {"StudyInstanceUID": "1.2"}),
        Query(Level.SERIES, {"StudyInstanceUID": "1.2\\1.3", "SeriesInstanceUID": "1"}),
        Query(Level.PATIENT, {"PatientID": ""}),
        Query(Level.STUDY, {"StudyInstanceUID": [{}]}),
    ],
)
def test_a_retrieve_names_what_it_wants(query: Query) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_named(query)
