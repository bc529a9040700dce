"""What many runs of a flow come to. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pacs_core.supervisor.flow_api import FlowRun


@dataclass(frozen=True, slots=True)
class FlowStatistics:
    """The runs of one flow over some time.

    Attributes:
        runs: that were started, in whatever state they are now.
        failed: crashed ones too.
        mean_seconds, median_seconds, p95_seconds: of the runs that completed; None where none did.
        last_success: when the latest of them ended.
    """

    flow: str
    runs: int
    completed: int
    failed: int
    cancelled: int
    mean_seconds: float | None
    median_seconds: float | None
    p95_seconds: float | None
    last_success: datetime | None

    @classmethod
    def of(cls, flow: str, runs: Sequence[FlowRun]) -> Self:
        """Count and measure."""
        well = [run for run in runs if run.succeeded]
        seconds = sorted((run.ended - run.started).total_seconds() for run in well if run.started and run.ended)
        states = [run.state_type for run in runs]
        return cls(
            flow=flow,
            runs=len(runs),
            completed=len(well),
            failed=states.count("FAILED") + states.count("CRASHED"),
            cancelled=states.count("CANCELLED"),
            mean_seconds=round(statistics.fmean(seconds), 1) if seconds else None,
            median_seconds=round(statistics.median(seconds), 1) if seconds else None,
            # The nearest rank: a duration that was really measured, also of few runs.
            p95_seconds=round(seconds[math.ceil(0.95 * len(seconds)) - 1], 1) if seconds else None,
            last_success=max((run.ended for run in well if run.ended), default=None),
        )
