"""Who may open an association, and do what."""

import threading
import time
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from pacs_core.dimse import callers as callers_module
from pacs_core.dimse.callers import Callers
from pacs_core.dimse.negotiation import NotAccepted, Rejection
from pacs_core.errors import IndexUnavailable
from pacs_core.model import AETitle, Peer, Permission


class Directory:
    def __init__(self, *peers: Peer) -> None:
        self.peers = list(peers)
        self.away = False
        self.reads = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def get(self, ae_title: str) -> Peer | None:
        raise AssertionError("all are read at once")

    def all(self) -> Sequence[Peer]:
        self.reads += 1
        assert self.may_answer.wait(30)
        if self.away:
            raise IndexUnavailable("away")
        return self.peers

    def put(self, peer: Peer) -> None:
        raise AssertionError

    def remove(self, ae_title: str) -> bool:
        raise AssertionError


CT1 = Peer(AETitle("CT1"), "ct", 104, permissions=(Permission.STORE,))
VIEWER = Peer(AETitle("VIEWER"), "viewer", 104)


def test_by_default_everybody_is_let_in_and_nobody_is_asked_for() -> None:
    directory = Directory(CT1)
    Callers(directory, known_only=False).admit("ANYBODY")
    assert directory.reads == 0


def test_an_unknown_caller_is_turned_away_for_good_where_only_known_ones_may_call() -> None:
    callers = Callers(Directory(CT1), known_only=True)
    callers.admit("CT1")
    with pytest.raises(NotAccepted) as refusal:
        callers.admit("OTHER")
    assert refusal.value.rejection is Rejection.CALLING_AE_NOT_RECOGNISED


@pytest.mark.parametrize(
    ("ae_title", "permission", "may"),
    [
        ("CT1", Permission.STORE, True),
        ("CT1", Permission.QUERY, False),
        ("CT1", None, True),
        ("VIEWER", Permission.QUERY, True),
        ("OTHER", Permission.QUERY, True),
    ],
)
def test_a_peer_may_what_its_entry_says_and_everything_where_it_says_nothing(
    ae_title: str, permission: Permission | None, may: bool
) -> None:
    assert Callers(Directory(CT1, VIEWER), known_only=False).may(ae_title, permission) is may


def test_peers_are_read_once_in_a_moment_and_a_change_holds_after_it() -> None:
    now = [0.0]
    directory = Directory(CT1)
    callers = Callers(directory, known_only=True, now=lambda: now[0])
    callers.admit("CT1")
    directory.peers.append(VIEWER)
    with pytest.raises(NotAccepted):
        callers.admit("VIEWER")
    now[0] = 2.0
    callers.admit("VIEWER")
    assert directory.reads == 2


def test_what_was_read_last_counts_while_the_peers_cannot_be_read() -> None:
    now = [0.0]
    directory = Directory(CT1)
    callers = Callers(directory, known_only=True, now=lambda: now[0])
    callers.admit("CT1")
    directory.away, now[0] = True, 5.0
    callers.admit("CT1")
    assert not callers.may("CT1", Permission.QUERY)


def test_where_they_were_never_read_a_caller_is_asked_to_come_again() -> None:
    directory = Directory(CT1)
    directory.away = True
    with pytest.raises(NotAccepted) as refusal:
        Callers(directory, known_only=True).admit("CT1")
    assert refusal.value.rejection is Rejection.TEMPORARY_CONGESTION
    assert Callers(directory, known_only=False).may("CT1", Permission.QUERY)


def test_a_directory_that_does_not_answer_holds_up_nobody_for_long_and_only_once() -> None:
    now = [0.0]
    directory = Directory(CT1)
    callers = Callers(directory, known_only=True, now=lambda: now[0])
    callers.admit("CT1")
    directory.may_answer.clear()
    now[0] = 10.0
    started = time.monotonic()
    for _ in range(200):
        assert not callers.may("CT1", Permission.QUERY)
    waited = time.monotonic() - started
    directory.may_answer.set()
    assert directory.reads == 2
    assert waited < 200 * callers_module._PATIENCE  # one has waited, not each


def test_an_unexpected_error_of_the_directory_is_survived() -> None:
    class Broken(Directory):
        def all(self) -> Sequence[Peer]:
            raise ValueError("bug")

    callers = Callers(Broken(), known_only=False, now=lambda: 0.0)
    with capture_logs() as logs:
        assert callers.may("CT1", Permission.QUERY)
    assert [event["event"] for event in logs] == ["peers_not_read"]
