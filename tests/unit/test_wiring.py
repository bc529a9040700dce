import resource
import threading
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from pacs_core.errors import StorageUnavailable
from pacs_core.index.postgres import Database
from pacs_core.model import PriorRequest
from pacs_core.settings import load_settings
from pacs_core.wiring import index, intake, orders


class FakeCommitter:
    """Stands in for the committer; tells when it is started."""

    def __init__(self) -> None:
        self.started = threading.Event()

    def start(self) -> None:
        self.started.set()

    def stop(self) -> bool:
        return True


@pytest.fixture
def committer(monkeypatch: pytest.MonkeyPatch) -> FakeCommitter:
    fake = FakeCommitter()
    monkeypatch.setattr(intake, "committer", lambda _: fake)
    monkeypatch.setattr(intake, "_PREPARE_AGAIN", 0.001)
    monkeypatch.setattr(intake, "_PREPARE_AGAIN_AFTER_CRASH", 0.001)
    return fake


def test_indexing_begins_whatever_preparing_runs_into(tmp_path: Path, committer: FakeCommitter, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = [StorageUnavailable("away"), OSError(5, "odd"), RuntimeError("odd")]

    def prepare(settings: object) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(index, "prepare", prepare)
    with intake._Committing(load_settings(tmp_path)):
        assert committer.started.wait(10)


def test_ending_does_not_wait_for_a_server_that_hangs(tmp_path: Path, committer: FakeCommitter, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = threading.Event(), threading.Event()

    def prepare(settings: object) -> None:
        asked.set()
        answers.wait(60)

    monkeypatch.setattr(index, "prepare", prepare)
    monkeypatch.setattr(intake, "_JOIN_TIMEOUT", 0.05)
    background = intake._Committing(load_settings(tmp_path))
    with background:
        assert asked.wait(10)
    assert background._thread.is_alive()
    answers.set()
    background._thread.join(10)
    assert not committer.started.is_set()


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, limits[1]), limits[1]))
    try:
        intake.raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(("has_source", "is_new"), [(True, True), (True, False), (False, True)])
def test_who_is_noted_as_expected_is_entered_behind_and_starts_the_flow_only_where_that_is_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_source: bool, is_new: bool
) -> None:
    entered: list[PriorRequest] = []
    started: list[str] = []

    class FakePrefetches:
        def __init__(self, database: Database) -> None:
            """It has none."""

        def request(self, requests: Sequence[PriorRequest]) -> int:
            entered.extend(requests)
            return len(requests) if is_new else 0

    monkeypatch.setattr(orders, "Prefetches", FakePrefetches)
    monkeypatch.setattr(orders, "FlowStarter", lambda flow, *_, **__: lambda: started.append(flow))
    monkeypatch.setenv("PACS_PREFETCH_SOURCES", '[{"peer": "ONE"}]' if has_source else "[]")
    expected = PriorRequest("P1", date(2026, 3, 4), reason="worklist")
    with orders.prior_requests(load_settings(tmp_path), Database("postgresql://nobody@127.0.0.1/none")) as noting:
        noting.note(expected)
    assert entered == [expected] * has_source
    assert started == ["prefetch"] * (has_source and is_new)
