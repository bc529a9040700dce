"""Event reports are delivered once, by one of several, and those to a peer in the order in which things happened."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from pacs_core.index import event_reports
from pacs_core.index.event_reports import EventReports
from pacs_core.index.postgres import Database
from pacs_core.ports.modality import Claimed, Report

LEASE = timedelta(seconds=30)


@pytest.fixture
def reports(database: Database) -> EventReports:
    return EventReports(database)


def owe(database: Database, peer: str, *event_types: int, context_class: str = "1.2") -> None:
    with database.transaction() as session:
        for event_type in event_types:
            event_reports.owe(session, Report(peer, "1.1", context_class, "1.3", event_type, {}))


def told(claimed: Sequence[Claimed]) -> list[tuple[str, int]]:
    return [(each.report.peer, each.report.event_type) for each in sorted(claimed, key=lambda each: each.number)]


def test_a_line_that_somebody_delivers_is_left_to_him_and_other_lines_are_not(database: Database, reports: EventReports) -> None:
    owe(database, "ONE", 1, 2)
    first = reports.claim(limit=1, lease=LEASE)
    assert told(first) == [("ONE", 1)]
    owe(database, "TWO", 3)
    owe(database, "ONE", 4, context_class="1.9")
    assert told(reports.claim(limit=10, lease=LEASE)) == [("TWO", 3), ("ONE", 4)]
    assert reports.claim(limit=10, lease=LEASE) == []
    reports.delivered(first[0].number)
    assert told(reports.claim(limit=10, lease=LEASE)) == [("ONE", 2)]


def test_what_a_peer_does_not_take_keeps_nothing_else_from_it(database: Database, reports: EventReports) -> None:
    owe(database, "ONE", 1, 2)
    (first,) = reports.claim(limit=1, lease=LEASE)
    reports.failed(first.number, "the peer answered with status 0110", timedelta(minutes=1))
    assert told(reports.claim(limit=10, lease=LEASE)) == [("ONE", 2)]


def test_all_that_a_peer_is_owed_waits_while_it_does_not_answer(database: Database, reports: EventReports) -> None:
    owe(database, "ONE", 1, 2)
    owe(database, "TWO", 3)
    (first,) = reports.claim(limit=1, lease=LEASE)
    reports.failed(first.number, "it does not answer", timedelta(0))
    reports.hold("ONE", "1.2", LEASE)
    owe(database, "ONE", 4)
    assert told(reports.claim(limit=10, lease=LEASE)) == [("TWO", 3)]
    reports.hold("ONE", "1.2", timedelta(0))
    assert told(reports.claim(limit=10, lease=LEASE)) == [("ONE", 1), ("ONE", 2), ("ONE", 4)]


def test_what_a_peer_asks_for_again_while_it_is_on_its_way_is_told_twice(database: Database, reports: EventReports) -> None:
    owe(database, "ONE", 1)
    (first,) = reports.claim(limit=1, lease=LEASE)
    with database.transaction() as session:
        event_reports.owe_again(session, first.number)
    assert reports.claim(limit=10, lease=LEASE) == [], "two at once might tell it in any order"
    reports.delivered(first.number)
    assert told(reports.claim(limit=10, lease=LEASE)) == [("ONE", 1)]
    reports.delivered(first.number)
    assert reports.claim(limit=10, lease=LEASE) == []


@pytest.mark.parametrize("again_after", [None, timedelta(0)], ids=["given up", "put off"])
def test_what_a_peer_asks_for_again_is_not_given_up(database: Database, reports: EventReports, again_after: timedelta | None) -> None:
    owe(database, "ONE", 1)
    (first,) = reports.claim(limit=1, lease=LEASE)
    with database.transaction() as session:
        event_reports.owe_again(session, first.number)
    reports.failed(first.number, "it hung up", again_after)
    assert told(reports.claim(limit=10, lease=LEASE)) == [("ONE", 1)]


def test_what_was_told_is_told_again_at_once_where_a_peer_asks(database: Database, reports: EventReports) -> None:
    owe(database, "ONE", 1)
    (first,) = reports.claim(limit=1, lease=LEASE)
    reports.delivered(first.number)
    with database.transaction() as session:
        event_reports.owe_again(session, first.number)
    assert told(reports.claim(limit=10, lease=LEASE)) == [("ONE", 1)]


def test_what_is_no_longer_owed_is_forgotten(database: Database, reports: EventReports) -> None:
    owe(database, "ONE", 1, 2, 3)
    first, second, _ = sorted(reports.claim(limit=10, lease=LEASE), key=lambda each: each.number)
    reports.delivered(first.number)
    reports.failed(second.number, "given up", None)
    now = datetime.now(UTC)
    assert reports.forget(now - timedelta(hours=1)) == 0
    assert (reports.forget(now + timedelta(hours=1)), reports.forget(now + timedelta(hours=1))) == (2, 0)


def test_a_line_of_one_who_has_vanished_is_free_when_his_lease_is_over(database: Database, reports: EventReports) -> None:
    owe(database, "ONE", 1, 2)
    assert told(reports.claim(limit=1, lease=timedelta(0))) == [("ONE", 1)]
    assert told(reports.claim(limit=10, lease=LEASE)) == [("ONE", 1), ("ONE", 2)]


def test_of_several_who_claim_at_once_one_has_the_line(database: Database, reports: EventReports) -> None:
    for _ in range(10):
        owe(database, "ONE", 1, 2, 3, 4)
        with ThreadPoolExecutor(4) as pool:
            claims = [claimed for claimed in pool.map(lambda _: reports.claim(limit=1, lease=LEASE), range(4)) if claimed]
        assert [told(claimed) for claimed in claims] == [[("ONE", 1)]]
        for _ in range(4):
            for each in claims[0] if claims else ():
                reports.delivered(each.number)
            claims = [reports.claim(limit=1, lease=LEASE)]


def test_one_that_is_asked_for_by_number_is_given_whatever_else_goes_on(database: Database, reports: EventReports) -> None:
    owe(database, "ONE", 1)
    (first,) = reports.claim(limit=1, lease=LEASE)
    owe(database, "ONE", 2)
    assert told(reports.claim(limit=1, lease=LEASE, number=first.number + 1)) == [("ONE", 2)]
