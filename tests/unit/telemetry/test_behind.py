"""Notes reach their writer in order, whatever it does, and nobody waits for that."""

import threading
from collections.abc import Sequence

from pacs_core.errors import IndexUnavailable, NotIndexable
from pacs_core.telemetry.behind import Behind


class Writer:
    """Fails as often as it is told to, then writes."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.written: list[int] = []
        self.attempts = 0
        self.entered = threading.Event()

    def __call__(self, notes: Sequence[int]) -> None:
        self.attempts += 1
        self.entered.set()
        if self.failures:
            raise self.failures.pop(0)
        self.written += notes


def test_closing_writes_what_waits_in_its_order() -> None:
    writer = Writer()
    notes = Behind(writer, name="notes", pause=60)
    for number in range(5):
        notes.note(number)
    notes.close()
    notes.note(5)
    notes.close()
    assert (writer.written, writer.attempts) == ([0, 1, 2, 3, 4], 1)


def test_what_may_succeed_later_is_written_later_and_before_what_came_since() -> None:
    writer = Writer(IndexUnavailable("away"))
    notes = Behind(writer, name="notes", pause=0.01)
    notes.note(1)
    assert writer.entered.wait(10)
    notes.note(2)
    notes.close()
    assert writer.written == [1, 2]


def test_what_can_never_be_written_is_given_up() -> None:
    writer = Writer(NotIndexable("no"))
    notes = Behind(writer, name="notes", pause=60)
    notes.note(1)
    notes.close()
    assert (writer.written, writer.attempts) == ([], 1)


def test_an_unexpected_error_ends_nothing() -> None:
    writer = Writer(ValueError("bug"))
    notes = Behind(writer, name="notes", pause=0.01)
    notes.note(1)
    assert writer.entered.wait(10)
    notes.note(2)
    notes.close()
    assert writer.written in ([2], [])  # with the first where both were one batch


def test_the_oldest_give_way() -> None:
    writer = Writer()
    notes = Behind(writer, name="notes", pause=60, limit=3)
    for number in range(5):
        notes.note(number)
    notes.close()
    assert writer.written == [2, 3, 4]


def test_an_unreachable_database_holds_up_nobody_for_long() -> None:
    notes = Behind(Writer(*[IndexUnavailable("away")] * 1000), name="notes", pause=0.01)
    notes.note(1)
    notes.close()
    notes.close()
