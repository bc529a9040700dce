from typing import Any

import pytest

from pacs_core.dicom.matching import matches, parse_criteria
from pacs_core.errors import InvalidIdentifier
from pacs_core.model import Header, HeaderValue


@pytest.mark.parametrize("value", ["", "*", "**", " "])
def test_a_key_without_a_demand_matches_everything_even_what_is_absent(value: str) -> None:
    assert matches({"StudyDescription": value}, {})


@pytest.mark.parametrize("key", ["X", "X*", "?"])
def test_a_demand_is_not_met_by_what_is_absent_or_empty(key: str) -> None:
    assert not matches({"StudyDescription": key}, {})
    assert not matches({"StudyDescription": key}, {"StudyDescription": ""})


def test_text_is_case_sensitive_and_padding_is_insignificant() -> None:
    assert matches({"PatientID": "Ab1 "}, {"PatientID": " Ab1"})
    assert not matches({"PatientID": "ab1"}, {"PatientID": "Ab1"})


@pytest.mark.parametrize(
    ("pattern", "expected"), [("C*", True), ("*D", True), ("C?EST*D", True), ("*EST*", True), ("*E", False), ("?", False)]
)
def test_wildcards_match_text(pattern: str, expected: bool) -> None:
    assert matches({"StudyDescription": pattern}, {"StudyDescription": "CHEST AND ABD"}) is expected


def test_wildcards_are_ordinary_characters_of_nothing_but_text() -> None:
    assert not matches({"StudyInstanceUID": "1.2.*"}, {"StudyInstanceUID": "1.2.3"})
    with pytest.raises(InvalidIdentifier, match="SeriesNumber"):
        parse_criteria({"SeriesNumber": "1*"})
    with pytest.raises(InvalidIdentifier, match="StudyDate"):
        parse_criteria({"StudyDate": "2020*"})


def test_a_list_of_uids_matches_each_of_them() -> None:
    keys: Header = {"StudyInstanceUID": "1.2\\1.3"}
    assert matches(keys, {"StudyInstanceUID": "1.3"})
    assert not matches(keys, {"StudyInstanceUID": "1.4"})


def test_any_of_several_stored_values_matches() -> None:
    assert matches({"OtherPatientIDs": "B*"}, {"OtherPatientIDs": "A1\\B1"})
    assert matches({"ModalitiesInStudy": "MR\\CT"}, {"ModalitiesInStudy": "CT\\SR"})
    assert not matches({"ModalitiesInStudy": "MR"}, {"ModalitiesInStudy": "CT\\SR"})


def test_numbers_match_however_they_are_written() -> None:
    assert matches({"SeriesNumber": "01"}, {"SeriesNumber": "1"})
    assert matches({"PatientWeight": "70.0"}, {"PatientWeight": "7e1"})
    assert not matches({"SeriesNumber": "1"}, {"SeriesNumber": "11"})
    assert not matches({"SeriesNumber": "1"}, {"SeriesNumber": "one"})


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("20200615", True),
        ("2020.06.15", True),
        ("20200101-20201231", True),
        ("20200615-20200615", True),
        ("-20200615", True),
        ("20200615-", True),
        ("20200616-", False),
        ("-20200614", False),
        ("20201231-20200101", False),
    ],
)
def test_dates_match_values_and_ranges(key: str, expected: bool) -> None:
    assert matches({"StudyDate": key}, {"StudyDate": "20200615"}) is expected
    assert matches({"StudyDate": key}, {"StudyDate": "2020.06.15"}) is expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("10", True),
        ("1030", True),
        ("103015", True),
        ("10:30", True),
        ("103016", False),
        ("09-10", True),
        ("-1030", True),
        ("1031-", False),
        ("11-", False),
        ("-10", True),
    ],
)
def test_times_match_as_precisely_as_they_are_given(key: str, expected: bool) -> None:
    assert matches({"StudyTime": key}, {"StudyTime": "103015.25"}) is expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("2020", "20200615120000", True),
        ("2019-2021", "20200615120000", True),
        ("202006151200-", "20200615115959", False),
        ("20200615120000+0000", "20200615140000+0200", True),
        ("20200615120000+0000", "20200615120000+0200", False),
        ("20200615120000+0000", "20200615120000", True),
        ("20200615-0500", "20200615", True),
        ("20200615-0500-20200616-0500", "20200616", True),
        ("-20200615-0500", "20200614", True),
    ],
)
def test_date_times_match_with_their_offsets(key: str, value: str, expected: bool) -> None:
    assert matches({"AcquisitionDateTime": key}, {"AcquisitionDateTime": value}) is expected


@pytest.mark.parametrize(
    ("keyword", "key", "stored", "expected"),
    [
        ("StudyDate", "20240230-20240301", "20240229", True),
        ("StudyDate", "20240230-20240301", "20240228", False),
        ("StudyDate", "20240201-20240231", "20240229", True),
        ("StudyDate", "20240201-20240231", "20240301", False),
        ("StudyDate", "-2024.06.31", "20240630", True),
        ("StudyTime", "000000-240000", "235959.999999", True),
        ("StudyTime", "12-24", "235959", True),
        ("StudyTime", "12:00-24:00:00", "1159", False),
        ("StudyTime", "240000-", "235959", False),
        ("AcquisitionDateTime", "20240201-20240231", "20240229120000", True),
        ("AcquisitionDateTime", "20240201-20240228240000", "20240228235959", True),
        ("AcquisitionDateTime", "20240201-20240228240000", "20240229", False),
        ("AcquisitionDateTime", "20240201+0100-20240231+0100", "20240229", True),
    ],
)
def test_bounds_of_no_calendar_are_those_of_the_month_and_the_day(keyword: str, key: str, stored: str, expected: bool) -> None:
    assert matches({keyword: key}, {keyword: stored}) is expected


def test_bounds_of_no_calendar_can_be_combined() -> None:
    keys: Header = {"StudyDate": "20240201-20240231", "StudyTime": "000000-240000"}
    assert matches(keys, {"StudyDate": "20240229", "StudyTime": "235959.5"}, combined_datetime=True)
    assert not matches(keys, {"StudyDate": "20240301", "StudyTime": "00"}, combined_datetime=True)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20240230"),
        ("StudyDate", "20241301-20241331"),
        ("StudyDate", "20240200-"),
        ("StudyDate", "20240232-"),
        ("StudyTime", "240000"),
        ("StudyTime", "00-240001"),
        ("StudyTime", "00-25"),
        ("AcquisitionDateTime", "20240230"),
        ("AcquisitionDateTime", "20240230-0500"),
        ("AcquisitionDateTime", "20241301-"),
        ("AcquisitionDateTime", "20240201-20240200"),
    ],
)
def test_single_values_and_bounds_of_no_sense_are_refused(keyword: str, value: str) -> None:
    with pytest.raises(InvalidIdentifier, match=keyword):
        parse_criteria({keyword: value})


@pytest.mark.parametrize(
    ("keyword", "value"), [("StudyDate", "-"), ("StudyDate", "yesterday"), ("StudyTime", "25"), ("AcquisitionDateTime", "-")]
)
def test_a_malformed_date_or_time_is_refused(keyword: str, value: str) -> None:
    with pytest.raises(InvalidIdentifier, match=keyword):
        parse_criteria({keyword: value})


def test_date_and_time_are_matched_apart_unless_combined_matching_was_negotiated() -> None:
    keys: Header = {"StudyDate": "20200101-20200103", "StudyTime": "1200-1300"}
    in_between: Header = {"StudyDate": "20200102", "StudyTime": "0800"}
    assert not matches(keys, in_between)
    assert matches(keys, in_between, combined_datetime=True)
    assert not matches(keys, {"StudyDate": "20200101", "StudyTime": "1159"}, combined_datetime=True)
    assert not matches(keys, {"StudyDate": "20200103", "StudyTime": "1301"}, combined_datetime=True)
    assert not matches(keys, {"StudyDate": "20200102"}, combined_datetime=True)


def test_several_ranges_cannot_be_combined() -> None:
    with pytest.raises(InvalidIdentifier, match="combined"):
        parse_criteria({"StudyDate": "20200101\\20200102", "StudyTime": "12"}, combined_datetime=True)


@pytest.mark.parametrize(
    "key", ["Yamada^Tarou", "YAMADA^TAROU", "yamada^tarou^^", "山田^太郎", "やまだ*", "Yamada^*", "=山田^太郎", "Yamada*==やまだ*"]
)
def test_a_name_matches_in_any_group_or_group_by_group(key: str) -> None:
    assert matches({"PatientName": key}, {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"})


@pytest.mark.parametrize("key", ["Yamada", "山田^太郎=Yamada*", "Yamada^?", "=Yamada^Tarou"])
def test_a_name_does_not_match_in_part_or_in_another_group(key: str) -> None:
    assert not matches({"PatientName": key}, {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"})


def test_names_ignore_accents_and_trailing_delimiters() -> None:
    assert matches({"PatientName": "Muller^Jose"}, {"PatientName": "MÜLLER^JOSÉ^^"})
    assert matches({"PatientName": "Doe^*"}, {"PatientName": "DOE"})
    assert matches({"PatientName": "^^"}, {})


def test_a_sequence_matches_if_one_item_meets_all_keys() -> None:
    keys: Header = {"RequestAttributesSequence": [{"RequestedProcedureID": "1", "ScheduledProcedureStepID": "A"}]}
    both: Header = {
        "RequestAttributesSequence": [{"RequestedProcedureID": "2"}, {"RequestedProcedureID": "1", "ScheduledProcedureStepID": "A"}]
    }
    spread: Header = {"RequestAttributesSequence": [{"RequestedProcedureID": "1"}, {"ScheduledProcedureStepID": "A"}]}
    assert matches(keys, both)
    assert not matches(keys, spread)
    assert not matches(keys, {})


@pytest.mark.parametrize("value", [[], [{}], [{"RequestedProcedureID": ""}]])
def test_an_empty_sequence_matches_everything(value: list[Header]) -> None:
    assert matches({"RequestAttributesSequence": value}, {})


def test_a_sequence_key_must_be_a_sequence_of_one_item() -> None:
    with pytest.raises(InvalidIdentifier):
        parse_criteria({"RequestAttributesSequence": "1"})
    with pytest.raises(InvalidIdentifier):
        parse_criteria({"PatientID": [{"PatientName": "A"}]})
    with pytest.raises(InvalidIdentifier):
        parse_criteria({"RequestAttributesSequence": [{"RequestedProcedureID": "1"}, {"RequestedProcedureID": "2"}]})


def nested(levels: int, innermost: Header) -> Header:
    header = innermost
    for _ in range(levels):
        header = {"RequestAttributesSequence": [header]}
    return header


def test_sequences_match_as_deep_as_headers_hold_them() -> None:
    keys = nested(4, {"CodeValue": "A"})
    assert matches(keys, nested(4, {"CodeValue": "A"}))
    assert not matches(keys, nested(4, {"CodeValue": "B"}))
    assert matches(nested(4, {}), {})


@pytest.mark.parametrize("levels", [5, 60])
def test_a_sequence_key_nested_deeper_than_headers_hold_is_refused(levels: int) -> None:
    with pytest.raises(InvalidIdentifier, match="nested"):
        parse_criteria(nested(levels, {"CodeValue": "A"}))


def test_each_item_of_a_sequence_key_is_read_once() -> None:
    class Counted(dict[str, HeaderValue]):
        reads = 0

        def items(self) -> Any:
            self.reads += 1
            return super().items()

    innermost = Counted(CodeValue="A")
    parse_criteria(nested(4, innermost))
    assert innermost.reads == 1


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "SeriesNumber", "StudyDate", "StudyTime", "AcquisitionDateTime"])
def test_a_thousand_alternatives_can_be_matched_and_no_more(keyword: str) -> None:
    value = "10" if keyword == "StudyTime" else "20200101"
    assert parse_criteria({keyword: "\\".join([value] * 1000)})
    with pytest.raises(InvalidIdentifier, match=keyword):
        parse_criteria({keyword: "\\".join([value] * 1001)})


def test_a_list_of_uids_may_be_long() -> None:
    uids = [f"1.2.{number}" for number in range(20_000)]
    assert matches({"StudyInstanceUID": "\\".join(uids)}, {"StudyInstanceUID": uids[-1]})


def test_an_overlong_date_time_is_refused_at_once() -> None:
    with pytest.raises(InvalidIdentifier, match="AcquisitionDateTime"):
        parse_criteria({"AcquisitionDateTime": "20200101-" + "-" * 1_000_000})


def test_what_is_not_a_key_and_what_is_unknown_demand_nothing() -> None:
    assert matches({"QueryRetrieveLevel": "STUDY", "SpecificCharacterSet": "ISO_IR 192", "NoSuchKeyword": "x"}, {})
