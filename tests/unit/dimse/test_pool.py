"""Associations that are lent, kept, and used again."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pacs_core.dimse.command import Command, CommandField, encode
from pacs_core.dimse.connection import ReleaseRequested
from pacs_core.dimse.negotiation import Proposal
from pacs_core.dimse.pool import AssociationPool
from pacs_core.errors import PeerUnavailable
from pacs_core.model import AETitle, Peer
from tests.support.peers import FakeCaller
from tests.support.waiting import eventually

PEER, OTHER = Peer(AETitle("DEST"), "127.0.0.1", 104), Peer(AETitle("OTHER"), "127.0.0.1", 104)
CT, MR = (Proposal(f"1.2.840.10008.5.1.4.1.1.{number}", ("1.2.840.10008.1.2",)) for number in (2, 4))
LONG = 60.0


@pytest.fixture
def caller() -> Iterator[FakeCaller]:
    fake = FakeCaller()
    yield fake
    fake.close()


@pytest.fixture
def pool(caller: FakeCaller) -> Iterator[AssociationPool]:
    """Keeps associations for as long as a test lasts, at most two to a peer, and waits for none."""
    lending = AssociationPool(caller, idle=LONG, maximum=2, patience=0)
    yield lending
    _let_go(caller)
    lending.close()


def _let_go(caller: FakeCaller) -> None:
    """Hang up on idle associations, so that nothing waits for a release to be answered."""
    for connection in caller.theirs:
        connection.close()


def test_an_association_is_used_again_by_whoever_needs_no_more_than_was_proposed_for_it(caller: FakeCaller, pool: AssociationPool) -> None:
    first = pool.borrow(PEER, [CT, MR])
    assert not first.reused
    pool.give_back(first)
    second = pool.borrow(PEER, [MR])
    assert second.assoc is first.assoc
    assert second.reused
    assert len(caller.theirs) == 1


def test_what_was_not_proposed_for_it_and_another_peer_need_one_of_their_own(caller: FakeCaller, pool: AssociationPool) -> None:
    pool.give_back(pool.borrow(PEER, [CT]))
    pool.give_back(pool.borrow(PEER, [MR]))
    pool.give_back(pool.borrow(OTHER, [CT]))
    assert len(caller.theirs) == 3
    assert pool.borrow(PEER, [CT]).reused
    assert pool.borrow(PEER, [MR]).reused
    assert pool.borrow(OTHER, [CT]).reused


def test_where_a_peer_has_all_that_it_may_have_an_idle_one_gives_way(caller: FakeCaller, pool: AssociationPool) -> None:
    pool.give_back(pool.borrow(PEER, [CT]))
    held = pool.borrow(PEER, [MR])
    with ThreadPoolExecutor(1) as thread:
        answered = thread.submit(_answer_release, caller, 0)
        third = pool.borrow(PEER, [MR])
        answered.result()
    assert not third.reused
    assert held.assoc.connection.is_open
    assert len(caller.theirs) == 3


def _answer_release(caller: FakeCaller, number: int) -> None:
    with pytest.raises(ReleaseRequested):
        caller.theirs[number].fragment(idle=LONG)
    caller.theirs[number].confirm_release()
    caller.theirs[number].close()


def test_one_too_many_is_refused_when_none_becomes_free_in_time(pool: AssociationPool) -> None:
    for _ in range(2):
        pool.borrow(PEER, [CT])
    with pytest.raises(PeerUnavailable, match="2 associations to DEST are in use"):
        pool.borrow(PEER, [CT])
    assert not pool.borrow(OTHER, [CT]).reused


def test_whoever_waits_gets_what_is_given_back(caller: FakeCaller) -> None:
    pool = AssociationPool(caller, idle=LONG, maximum=1, patience=LONG)
    first = pool.borrow(PEER, [CT])
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pool.borrow, PEER, [CT])
        pool.give_back(first)
        assert waiting.result(LONG).assoc is first.assoc


def test_whoever_waits_may_open_one_where_another_was_broken(caller: FakeCaller) -> None:
    pool = AssociationPool(caller, idle=LONG, maximum=1, patience=LONG)
    first = pool.borrow(PEER, [CT])
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pool.borrow, PEER, [CT])
        first.assoc.connection.abort()
        pool.give_back(first)
        assert not waiting.result(LONG).reused


def test_a_peer_that_could_not_be_reached_leaves_its_place_to_the_next(caller: FakeCaller, pool: AssociationPool) -> None:
    caller.away = True
    for _ in range(3):
        with pytest.raises(PeerUnavailable, match="does not answer"):
            pool.borrow(PEER, [CT])
    caller.away = False
    assert not pool.borrow(PEER, [CT]).reused


@pytest.mark.parametrize("ending", ["close", "abort"])
def test_an_idle_association_that_its_peer_has_ended_is_replaced(caller: FakeCaller, pool: AssociationPool, ending: str) -> None:
    pool.give_back(pool.borrow(PEER, [CT]))
    getattr(caller.theirs[0], ending)()
    loan = pool.borrow(PEER, [CT])
    assert not loan.reused
    assert len(caller.theirs) == 2


def test_an_idle_association_that_its_peer_releases_is_released_at_once_and_replaced(caller: FakeCaller, pool: AssociationPool) -> None:
    pool.give_back(pool.borrow(PEER, [CT]))
    caller.theirs[0].release()  # returns when it is answered
    assert not pool.borrow(PEER, [CT]).reused


def test_an_idle_association_on_which_its_peer_sends_a_message_is_ended(caller: FakeCaller, pool: AssociationPool) -> None:
    pool.give_back(pool.borrow(PEER, [CT]))
    caller.theirs[0].send_message(1, encode(Command(CommandField=CommandField.C_ECHO, MessageID=1)))
    assert not pool.borrow(PEER, [CT]).reused


def test_an_association_that_stays_idle_is_released(caller: FakeCaller) -> None:
    pool = AssociationPool(caller, idle=0.01)
    pool.give_back(pool.borrow(PEER, [CT]))
    _answer_release(caller, 0)
    eventually(lambda: not pool._lines, what="an end of the association")
    eventually(lambda: pool._watcher is None, what="an end of the watcher")


def test_where_none_is_kept_an_association_is_released_when_it_is_given_back(caller: FakeCaller) -> None:
    pool = AssociationPool(caller, idle=0)
    loan = pool.borrow(PEER, [CT])
    with ThreadPoolExecutor(1) as thread:
        answered = thread.submit(_answer_release, caller, 0)
        pool.give_back(loan)
        answered.result()
    assert pool._watcher is None


def test_closing_releases_the_idle_ones_and_ends_lending(caller: FakeCaller) -> None:
    pool = AssociationPool(caller, idle=LONG)
    held, idle = pool.borrow(PEER, [CT]), pool.borrow(PEER, [CT])
    pool.give_back(idle)
    with ThreadPoolExecutor(1) as thread:
        answered = thread.submit(_answer_release, caller, 1)
        pool.close()
        answered.result()
        with pytest.raises(PeerUnavailable, match="stopping"):
            pool.borrow(PEER, [CT])
        answered = thread.submit(_answer_release, caller, 0)
        pool.give_back(held)
        answered.result()
    pool.close()


def test_closing_sends_away_whoever_waits(caller: FakeCaller) -> None:
    pool = AssociationPool(caller, idle=LONG, maximum=1, patience=LONG)
    pool.borrow(PEER, [CT])
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pool.borrow, PEER, [CT])
        pool.close()
        with pytest.raises(PeerUnavailable, match="stopping"):
            waiting.result(LONG)


def test_many_threads_never_have_more_than_the_maximum_and_never_share_one(caller: FakeCaller) -> None:
    pool = AssociationPool(caller, idle=LONG, maximum=3, patience=LONG)
    lock, lent, most = threading.Lock(), set[str](), [0]

    def use(_: int) -> None:
        for _ in range(50):
            loan = pool.borrow(PEER, [CT])
            with lock:
                assert loan.assoc.id not in lent
                lent.add(loan.assoc.id)
                most[0] = max(most[0], len(lent))
            with lock:
                lent.remove(loan.assoc.id)
            pool.give_back(loan)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    assert 1 <= most[0] <= 3
    assert len(caller.theirs) <= 3
    _let_go(caller)
    pool.close()
