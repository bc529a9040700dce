"""What a run leaves behind: a row that SQL can join, and artifacts in the UI."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.exceptions import Pause
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run

from pacs_core.archive.verification import Problem
from pacs_core.settings import load_settings
from pacs_core.wiring import index

Result = TypeVar("Result")

_ROWS = 1000  # of a table artifact; the UI loads all of it


class RunRecord:
    """The row of this run in the table `flow_run`: begun on entry, ended on exit, also by an exception."""

    def __init__(self, flow: str, parameters: Mapping[str, object]) -> None:
        self._runs = index.flow_runs(load_settings())
        self._id = flow_run.get_id() or str(uuid4())
        self._flow = flow
        self._parameters = parameters
        self._state, self._summary = "failed", dict[str, object]()

    @property
    def run_id(self) -> str:
        """What the index knows this run by."""
        return self._id

    def __enter__(self) -> Self:
        self._runs.start(self._id, self._flow, started_at=datetime.now(UTC), parameters=self._parameters)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Pause):  # the run ends here, and begins anew when it is resumed
            self._state = "paused"
        elif error is not None:
            self._summary = {"error": f"{type(error).__name__}: {error}"}
        self._runs.finish(self._id, state=self._state, ended_at=datetime.now(UTC), summary=self._summary)

    def renew(self) -> None:
        """Enter the row again: what the run did has removed it."""
        self.__enter__()

    def finish(self, state: str, summary: Mapping[str, object]) -> None:
        """What to write on exit."""
        self._state, self._summary = state, dict(summary)


class Progress:
    """A progress bar in the UI that moves in whole per cents."""

    def __init__(self, key: str, steps: int) -> None:
        self._steps = max(1, steps)
        self._done = 0
        self._shown = 0
        artifact = create_progress_artifact(0.0, key=key, description=f"{steps} steps")
        assert isinstance(artifact, UUID)  # not a coroutine: flows here are synchronous
        self._artifact = artifact

    def step(self) -> None:
        """One step is done. What is done once more at the end shows no progress."""
        self._done += 1
        percent = min(100, 100 * self._done // self._steps)
        if percent > self._shown:
            update_progress_artifact(self._artifact, progress=float(percent))
            self._shown = percent


def gathered(key: str, futures: Sequence[PrefectFuture[Result]]) -> tuple[Sequence[Result], int]:
    """What the steps of a run report, and how many of them broke off; a progress bar of that key tells of it."""
    progress = Progress(key, len(futures))
    results: list[Result] = []
    for future in as_completed(list(futures)):
        future.wait()
        if future.state.is_completed():
            results.append(future.result())
        progress.step()
    return results, len(futures) - len(results)


def publish_problems(key: str, problems: Sequence[Problem]) -> None:
    """The table of damaged objects."""
    publish_table(key, f"{len(problems)} problems", [asdict(problem) for problem in problems])


def publish_table(key: str, description: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a table of the UI; also when there are none, so that the newest table is the newest run's."""
    left_out = f"; the first {_ROWS} of {len(rows)} are shown" if len(rows) > _ROWS else ""
    create_table_artifact([dict(row) for row in rows[:_ROWS]] or [{"rows": "none"}], key=key, description=description + left_out)


def publish_summary(key: str, title: str, sentence: str, figures: Mapping[str, object]) -> None:
    """A heading, one sentence and a table of figures."""
    lines = [f"## {title}", "", f"**{sentence}**", "", "| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in figures.items())]
    create_markdown_artifact("\n".join(lines), key=key)
