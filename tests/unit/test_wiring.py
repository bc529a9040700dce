import resource
import threading
from pathlib import Path

import pytest

from pacs_core import wiring
from pacs_core.errors import PeerUnavailable, StorageUnavailable
from pacs_core.settings import load_settings


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
    monkeypatch.setattr(wiring, "committer", lambda _: fake)
    monkeypatch.setattr(wiring, "_PREPARE_AGAIN", 0.001)
    monkeypatch.setattr(wiring, "_PREPARE_AGAIN_AFTER_CRASH", 0.001)
    return fake


def test_indexing_begins_whatever_preparing_runs_into(tmp_path: Path, committer: FakeCommitter, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = [StorageUnavailable("away"), OSError(5, "odd"), RuntimeError("odd")]

    def prepare(settings: object) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(wiring, "prepare", prepare)
    with wiring._Committing(load_settings(tmp_path)):
        assert committer.started.wait(10)


def test_ending_does_not_wait_for_a_server_that_hangs(tmp_path: Path, committer: FakeCommitter, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = threading.Event(), threading.Event()

    def prepare(settings: object) -> None:
        asked.set()
        answers.wait(60)

    monkeypatch.setattr(wiring, "prepare", prepare)
    monkeypatch.setattr(wiring, "_JOIN_TIMEOUT", 0.05)
    background = wiring._Committing(load_settings(tmp_path))
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
        wiring.raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_flow_is_started_at_most_once_in_its_time_and_never_fails() -> None:
    now, started = [0.0], threading.Semaphore(0)

    def run(url: str, flow: str) -> None:
        assert (url, flow) == ("http://prefect", "recall")
        started.release()
        raise PeerUnavailable("no server")

    start = wiring.FlowStarter("recall", "http://prefect", at_most_every=30, run=run, now=lambda: now[0])
    for _ in range(3):
        start()
    assert started.acquire(timeout=10)
    now[0] = 31
    start()
    assert started.acquire(timeout=10)
    assert not started.acquire(blocking=False)
