"""What many runs come to."""

from datetime import UTC, datetime, timedelta

from pacs_core.supervisor.flow_api import FlowRun
from pacs_core.supervisor.flow_statistics import FlowStatistics

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run(state: str, seconds: float | None) -> FlowRun:
    ended = None if seconds is None else NOON + timedelta(seconds=seconds)
    return FlowRun("id", "name", "verify", state, state.title(), "", NOON, ended, {})


def test_runs_are_counted_by_how_they_ended_and_measured_where_they_completed() -> None:
    runs = [run("COMPLETED", 1), run("COMPLETED", 2), run("COMPLETED", 9), run("FAILED", 500), run("CRASHED", 500), run("CANCELLED", 500)]
    assert FlowStatistics.of("verify", [*runs, run("RUNNING", None)]) == FlowStatistics(
        flow="verify",
        runs=7,
        completed=3,
        failed=2,
        cancelled=1,
        mean_seconds=4.0,
        median_seconds=2.0,
        p95_seconds=9.0,
        last_success=NOON + timedelta(seconds=9),
    )


def test_of_a_hundred_the_95th_percentile_is_the_95th() -> None:
    assert FlowStatistics.of("verify", [run("COMPLETED", seconds) for seconds in range(100, 0, -1)]).p95_seconds == 95


def test_a_flow_that_never_completed_has_no_durations() -> None:
    nothing = FlowStatistics.of("verify", [run("FAILED", 3)])
    assert (nothing.mean_seconds, nothing.median_seconds, nothing.p95_seconds, nothing.last_success) == (None, None, None, None)
