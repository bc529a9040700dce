"""Schedules as people write them."""

from datetime import UTC, datetime

import pytest

from pacs_core.errors import ConfigurationError
from pacs_core.supervisor.flow_schedules import by_cron, by_interval, described, once


def test_what_was_written_is_described() -> None:
    assert described(by_cron("30 2 * * 1-5", "Europe/Berlin")) == "30 2 * * 1-5 Europe/Berlin"
    assert described(by_interval("15m")) == "every 900 s"
    assert described(once("2100-01-31T22:00", "Europe/Berlin")) == "once at 2100-01-31 21:00:00 UTC"
    assert described({"rrule": "FREQ=WEEKLY"}) == "FREQ=WEEKLY"


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("15m", 900), ("6h", 21_600), ("2d", 172_800)])
def test_intervals_have_units(text: str, seconds: int) -> None:
    assert by_interval(text)["interval"] == seconds


@pytest.mark.parametrize("text", ["", "15", "0m", "9s", "-1h", "1.5h", "15 m", "1w", "९०s"])
def test_what_is_no_interval_is_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--interval"):
        by_interval(text)


def test_an_interval_counts_from_now() -> None:
    assert abs((datetime.now(UTC) - datetime.fromisoformat(by_interval("1d")["anchor_date"])).total_seconds()) < 60


def test_an_offset_counts_more_than_the_time_zone() -> None:
    assert described(once("2100-01-31T22:00+05:00", "Europe/Berlin")) == "once at 2100-01-31 17:00:00 UTC"


@pytest.mark.parametrize("text", ["", "tomorrow", "2020-01-01T00:00", "2100-13-01T00:00"])
def test_what_is_no_moment_to_come_is_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--once"):
        once(text, "UTC")


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "Europe"])
def test_what_is_no_time_zone_is_told(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="--timezone"):
        by_cron("0 0 * * *", zone)


@pytest.mark.parametrize("line", ["", "@daily", "0 0 * *", "0 0 0 * * *"])
def test_a_cron_line_has_five_fields(line: str) -> None:
    with pytest.raises(ConfigurationError, match="five fields"):
        by_cron(line, "UTC")
