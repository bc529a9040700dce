import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from pacs_core.errors import IndexUnavailable
from pacs_core.workflow import worker
from pacs_core.workflow.worker import Worker

PATIENCE = 10.0


class Work:
    """What is due, as a list of what each turn does; afterwards nothing is."""

    def __init__(self, *turns: Callable[[], bool]) -> None:
        self.turns = list(turns)
        self.idle = threading.Event()

    def __call__(self) -> bool:
        if not self.turns:
            self.idle.set()
            return False
        return self.turns.pop(0)()


def failing(exc: Exception) -> Callable[[], bool]:
    def turn() -> bool:
        raise exc

    return turn


@pytest.fixture(autouse=True)
def _no_look_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_LOOK_AGAIN", 3600.0)


def test_what_is_due_is_done_turn_after_turn() -> None:
    work = Work(lambda: True, lambda: True)
    with closing(Worker(work, name="test")) as at_work:
        at_work.start()
        assert work.idle.wait(PATIENCE)
    assert work.turns == []


@pytest.mark.parametrize("exc", [IndexUnavailable("away"), ValueError("a defect")])
def test_what_fails_is_tried_again_when_told(exc: Exception) -> None:
    work = Work(failing(exc))
    with closing(Worker(work, name="test")) as at_work:
        at_work.start()
        while not work.idle.wait(0.01):
            at_work.hasten()


def test_one_that_waits_is_closed_at_once_and_one_that_never_began_too() -> None:
    work = Work()
    at_work = Worker(work, name="test")
    at_work.start()
    assert work.idle.wait(PATIENCE)
    at_work.close()
    at_work.close()
    assert at_work.is_stopping
    assert "test" not in {thread.name for thread in threading.enumerate()}
    Worker(work, name="unused").close()
