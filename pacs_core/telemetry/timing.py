"""How long things take: histograms of durations by operation, phase and status, and a tally for each association.

Pure: durations in seconds come in, plain values go out; nothing is measured against another clock or sent anywhere. Who
measures takes a `Timings` in its constructor and needs one line at each place, which costs about a microsecond:

    timings.record("index", "lag", seconds)                # a duration that is known
    with timings.measure("C-STORE", "sync"): …             # how long a block takes
    laps = timings.laps("C-STORE"); …; laps("receive")     # phases that follow one another: the time since the line before
"""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType

TOTAL = "total"  # the phase that is the whole operation

# Upper bounds in seconds, each included in its bucket; one more bucket holds what is longer.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(frozen=True, slots=True)
class Series:
    """The durations of one phase of one operation.

    Attributes:
        operation: its name, such as C-STORE.
        phase: a part of it, or TOTAL.
        status: how it ended, where that is known: for DIMSE four hex digits.
        count: how many durations.
        seconds: their sum.
        size: the sum of the bytes that went with them.
        buckets: how many of them are in each bucket, one more than there are BOUNDS.
    """

    operation: str
    phase: str
    status: str
    count: int
    seconds: float
    size: int
    buckets: tuple[int, ...]


@dataclass(slots=True)
class _Sum:
    count: int = 0
    seconds: float = 0.0
    size: int = 0

    def add(self, seconds: float, size: int) -> None:
        self.count += 1
        self.seconds += seconds
        self.size += size


@dataclass(slots=True)
class _Histogram(_Sum):
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))


_Key = tuple[str, str, str]  # operation, phase, status


class Tally:
    """What one thread has recorded since the tally began. Belongs to that thread."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[_Key, _Sum] = {}

    def add(self, key: _Key, seconds: float, size: int) -> None:
        """Enter one duration."""
        total = self._sums.get(key)
        if total is None:
            total = self._sums[key] = _Sum()
        total.add(seconds, size)

    @property
    def size(self) -> int:
        """The bytes of every operation."""
        return sum(total.size for total in self._sums.values())

    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many operations ended, by operation and status."""
        return {(operation, status): total.count for (operation, phase, status), total in self._sums.items() if phase == TOTAL}

    def seconds(self) -> Mapping[tuple[str, str], float]:
        """The time spent, by operation and phase."""
        spent: dict[tuple[str, str], float] = {}
        for (operation, phase, _), total in self._sums.items():
            spent[operation, phase] = spent.get((operation, phase), 0.0) + total.seconds
        return spent


class _Threads(threading.local):
    tally: Tally | None = None


class _Measure:
    """Records how long its block took, however it ended."""

    __slots__ = ("_operation", "_phase", "_started", "_timings")

    def __init__(self, timings: "Timings", operation: str, phase: str) -> None:
        self._timings, self._operation, self._phase = timings, operation, phase

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._timings.record(self._operation, self._phase, perf_counter() - self._started)


class Timings:
    """The histograms of one process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._histograms: dict[_Key, _Histogram] = {}
        self._threads = _Threads()

    def record(self, operation: str, phase: str, seconds: float, *, status: str = "", size: int = 0) -> None:
        """Enter one duration, and the bytes that went with it, here and in the tally of this thread, if it keeps one."""
        key = (operation, phase, status)
        bucket = bisect_left(BOUNDS, seconds)
        with self._lock:
            histogram = self._histograms.get(key)
            if histogram is None:
                histogram = self._histograms[key] = _Histogram()
            histogram.count += 1
            histogram.seconds += seconds
            histogram.size += size
            histogram.buckets[bucket] += 1
        if (tally := self._threads.tally) is not None:
            tally.add(key, seconds, size)

    def measure(self, operation: str, phase: str) -> _Measure:
        """A block whose duration is recorded."""
        return _Measure(self, operation, phase)

    def laps(self, operation: str) -> "Laps":
        """For phases that follow one another; the first begins now."""
        return Laps(self, operation)

    @contextmanager
    def tally(self) -> Iterator[Tally]:
        """Also keep what this thread records within the block. Tallies do not nest."""
        self._threads.tally = tally = Tally()
        try:
            yield tally
        finally:
            self._threads.tally = None

    def snapshot(self) -> tuple[Series, ...]:
        """Everything recorded so far, ordered by operation, phase and status."""
        with self._lock:
            ordered = ((key, self._histograms[key]) for key in sorted(self._histograms))
            return tuple(Series(*key, each.count, each.seconds, each.size, tuple(each.buckets)) for key, each in ordered)


class Laps:
    """Records phases that follow one another. Belongs to one thread."""

    __slots__ = ("_last", "_operation", "_timings")

    def __init__(self, timings: Timings, operation: str) -> None:
        self._timings, self._operation, self._last = timings, operation, perf_counter()

    def __call__(self, phase: str, *, size: int = 0) -> None:
        """The phase that ends now lasted since the one before it ended."""
        now = perf_counter()
        self._timings.record(self._operation, phase, now - self._last, size=size)
        self._last = now
