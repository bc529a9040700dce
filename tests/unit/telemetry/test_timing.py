"""Histograms of durations, and the tally of one thread."""

import threading

import pytest

from pacs_core.telemetry.timing import BOUNDS, TOTAL, Timings


def test_a_duration_is_counted_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    timings = Timings()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1] * 2):
        timings.record("C-STORE", "sync", seconds)
    (series,) = timings.snapshot()
    assert (series.operation, series.phase, series.status, series.count) == ("C-STORE", "sync", "", 4)
    assert series.seconds == pytest.approx(BOUNDS[0] * 2.01 + BOUNDS[-1] * 2)
    assert (series.buckets[:2], series.buckets[-1], sum(series.buckets)) == ((2, 1), 1, 4)


def test_operations_phases_and_statuses_are_kept_apart_and_in_order() -> None:
    timings = Timings()
    timings.record("C-STORE", TOTAL, 1, status="A700")
    timings.record("C-STORE", TOTAL, 1, status="0000", size=10)
    timings.record("C-STORE", TOTAL, 1, status="0000", size=5)
    timings.record("C-ECHO", TOTAL, 1, status="0000")
    keys = [(each.operation, each.status, each.count, each.size) for each in timings.snapshot()]
    assert keys == [("C-ECHO", "0000", 1, 0), ("C-STORE", "0000", 2, 15), ("C-STORE", "A700", 1, 0)]


def test_a_snapshot_does_not_change_with_what_comes_later() -> None:
    timings = Timings()
    timings.record("C-ECHO", TOTAL, 1)
    before = timings.snapshot()
    timings.record("C-ECHO", TOTAL, 1)
    assert before[0].count == sum(before[0].buckets) == 1


def test_a_block_is_measured_also_where_it_fails() -> None:
    timings = Timings()
    with pytest.raises(ValueError, match="odd"), timings.measure("C-STORE", "sync"):
        raise ValueError("odd")
    assert [(each.phase, each.count) for each in timings.snapshot()] == [("sync", 1)]


def test_laps_divide_the_time_since_they_began() -> None:
    timings = Timings()
    with timings.tally() as tally, timings.measure("C-STORE", TOTAL):
        laps = timings.laps("C-STORE")
        laps("receive", size=7)
        laps("sync")
    spent = tally.seconds()
    assert 0 <= spent["C-STORE", "receive"] + spent["C-STORE", "sync"] <= spent["C-STORE", TOTAL]
    assert tally.size == 7


def test_a_tally_has_what_its_own_thread_recorded_while_it_was_kept() -> None:
    timings = Timings()
    timings.record("C-ECHO", TOTAL, 1, status="0000")
    with timings.tally() as tally:
        timings.record("C-ECHO", TOTAL, 2, status="0000")
        timings.record("C-STORE", "receive", 3)
        timings.record("C-STORE", TOTAL, 4, status="A700")
        other = threading.Thread(target=timings.record, args=("C-ECHO", TOTAL, 5))
        other.start()
        other.join()
    timings.record("C-ECHO", TOTAL, 6)
    assert tally.counts() == {("C-ECHO", "0000"): 1, ("C-STORE", "A700"): 1}
    assert tally.seconds() == {("C-ECHO", TOTAL): 2, ("C-STORE", "receive"): 3, ("C-STORE", TOTAL): 4}


def test_nothing_is_lost_when_many_threads_record_at_once() -> None:
    timings = Timings()

    def record() -> None:
        for _ in range(2000):
            timings.record("C-ECHO", TOTAL, 0.001, size=2)

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (series,) = timings.snapshot()
    assert (series.count, series.size) == (16_000, 32_000)
