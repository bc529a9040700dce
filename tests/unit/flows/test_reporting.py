"""What a run leaves in `flow_run`, however it ends."""

from collections.abc import Mapping
from datetime import datetime

import pytest
from prefect.exceptions import Pause

from flows.reporting import RunRecord
from pacs_core.wiring import index


class FakeRuns:
    """Remembers the states of one run."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def start(self, run_id: str, flow: str, *, started_at: datetime, parameters: Mapping[str, object]) -> None:
        self.states.append("running")

    def finish(self, run_id: str, *, state: str, ended_at: datetime, summary: Mapping[str, object]) -> None:
        self.states.append(state)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    fake = FakeRuns()
    monkeypatch.setattr(index, "flow_runs", lambda _: fake)
    return fake


def run(outcome: BaseException | str) -> None:
    with RunRecord("migrate", {}) as record:
        if isinstance(outcome, BaseException):
            raise outcome
        record.finish(outcome, {})


def test_a_run_that_is_paused_has_not_failed_and_goes_on_as_the_same(runs: FakeRuns) -> None:
    with pytest.raises(Pause):
        run(Pause())
    run("completed")
    assert runs.states == ["running", "paused", "running", "completed"]


def test_a_run_that_breaks_off_has_failed(runs: FakeRuns) -> None:
    with pytest.raises(ValueError, match="broken"):
        run(ValueError("broken"))
    assert runs.states == ["running", "failed"]
