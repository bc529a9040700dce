from datetime import date, time, timedelta, timezone

import pytest

from pacs_core.dicom.values import parse_date, parse_datetime, parse_decimal, parse_integer, parse_time


@pytest.mark.parametrize("text", ["20200229", "2020.02.29"])
def test_a_date_may_be_written_with_dots(text: str) -> None:
    assert parse_date(text) == date(2020, 2, 29)


@pytest.mark.parametrize("text", ["", "2020", "20200230", "00000101", "2020-01-01", "202001011", "２０２００１０１"])
def test_what_is_not_a_date_is_none(text: str) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("10", time(10), time(10, 59, 59, 999999)),
        ("1030", time(10, 30), time(10, 30, 59, 999999)),
        ("103015", time(10, 30, 15), time(10, 30, 15, 999999)),
        ("10:30:15", time(10, 30, 15), time(10, 30, 15, 999999)),
        ("103015.5", time(10, 30, 15, 500000), time(10, 30, 15, 599999)),
        ("103015.123456", time(10, 30, 15, 123456), time(10, 30, 15, 123456)),
        ("235960", time(23, 59, 59, 999999), time(23, 59, 59, 999999)),
    ],
)
def test_a_time_spans_what_its_precision_leaves_open(text: str, first: time, last: time) -> None:
    span = parse_time(text)
    assert span is not None
    assert (span.first, span.last) == (first, last)


@pytest.mark.parametrize("text", ["", "1", "24", "1060", "103015.", "103015.1234567", "10-11"])
def test_what_is_not_a_time_is_none(text: str) -> None:
    assert parse_time(text) is None


def test_a_date_time_cut_short_spans_the_rest() -> None:
    span = parse_datetime("202002")
    assert span is not None
    assert (span.first.isoformat(), span.last.isoformat()) == ("2020-02-01T00:00:00", "2020-02-29T23:59:59.999999")


def test_a_date_time_keeps_its_offset() -> None:
    span = parse_datetime("20200101120000-0530")
    assert span is not None
    assert span.offset == timezone(-timedelta(hours=5, minutes=30))


@pytest.mark.parametrize("text", ["", "2020-2021", "20201301", "20200101+1500", "20200101+0099", "2020010112000"])
def test_what_is_not_a_date_time_is_none(text: str) -> None:
    assert parse_datetime(text) is None


def test_numbers_are_finite_and_fit_their_columns() -> None:
    assert parse_integer("+007") == 7
    assert parse_integer("9223372036854775808") is None
    assert parse_integer("1.0") is None
    assert parse_decimal("-1.5e3") == -1500.0
    assert parse_decimal("1e999") is None
    assert parse_decimal("nan") is None
