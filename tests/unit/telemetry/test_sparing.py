"""Events that come at any rate."""

from pacs_core.telemetry.sparing import Sparing


def test_one_event_in_an_interval_passes_and_tells_how_many_did_not() -> None:
    now = [100.0]
    sparing = Sparing(10, clock=lambda: now[0])
    assert [sparing.admit() for _ in range(4)] == [0, None, None, None]
    now[0] = 109.9
    assert sparing.admit() is None
    now[0] = 110.0
    assert [sparing.admit() for _ in range(2)] == [4, None]
