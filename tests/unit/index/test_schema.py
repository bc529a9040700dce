import json
from datetime import date, time

import pytest

from pacs_core.dicom.attributes import INDEXED, vr
from pacs_core.index.schema import COLUMNS, arrow_table, clean, column_value, entity_key
from pacs_core.model import Header, Level
from tests.support.records import record


@pytest.mark.parametrize("level", list(Level))
def test_every_scalar_indexed_attribute_is_a_column(level: Level) -> None:
    names = [column.name for column in COLUMNS[level]]
    assert {keyword for keyword in INDEXED[level] if vr(keyword) != "SQ"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("keyword", "text", "value"),
    [
        ("StudyDate", "20240506", date(2024, 5, 6)),
        ("StudyDate", "2024", None),
        ("StudyTime", "10", time(10)),
        ("SeriesNumber", " 7 ", 7),
        ("SeriesNumber", "seven", None),
        ("PatientWeight", "70.5", 70.5),
        ("Rows", "512", 512),
        ("StudyDescription", " CHEST ", "CHEST"),
        ("StudyDescription", "", None),
        ("OtherPatientIDsSequence", [{"PatientID": "1"}], None),
    ],
)
def test_a_column_holds_the_value_in_its_type_or_nothing(keyword: str, text: str, value: object) -> None:
    assert column_value(keyword, text) == value


def test_the_header_is_kept_as_received() -> None:
    header: Header = {"StudyDate": "2024.05.06", "ProcedureCodeSequence": [{"CodeValue": "1"}], "StudyDescription": ""}
    (row,) = arrow_table(Level.STUDY, [record(1, header=header)]).to_pylist()
    assert json.loads(row["header"]) == {"StudyInstanceUID": "1.1", **header}
    assert row["StudyDate"] == date(2024, 5, 6)


def test_the_keys_of_an_entity_are_never_null() -> None:
    assert entity_key(Level.PATIENT, record(1, header={"PatientID": ""})) == ("", "")
    assert entity_key(Level.SERIES, record(1)) == ("1.1", "1.1.1")


def test_text_is_cleaned_of_what_no_database_holds() -> None:
    assert clean("a\0b\udc80é") == "ab?é"
