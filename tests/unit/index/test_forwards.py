"""What has arrived for a rule is found and entered once; what came of it is kept."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.forwards import Arrival, Forwards, arrived
from pacs_core.index.postgres import Database
from pacs_core.index.sql import InvalidSQL, SQLSession
from pacs_core.model import UID, Header, Origin
from tests.support.records import record
from tests.unit.index.conftest import Place

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


@pytest.fixture
def ledger(place: Place) -> Iterator[Forwards]:
    ledger = Forwards(place.catalog_url)
    yield ledger
    ledger.close()


@pytest.fixture
def session(place: Place) -> Iterator[SQLSession]:
    with SQLSession(place.catalog_url, place.data_path) as session:
        yield session


def arrive(writer: LakeIndexWriter, number: int, at: datetime, *, source: str = "CT1", **header: str) -> None:
    attributes: Header = {"Modality": "CT", "PatientName": "Müller^Jürgen", **header}
    writer.commit([record(number, study=f"1.{number}", series=f"1.{number}.1", header=attributes, origin=Origin(source, "PACS", at))])


def found(session: SQLSession, ledger: Forwards, **conditions: object) -> list[str]:
    state = ledger.begin("rule", NOW)
    return sorted(each.StudyInstanceUID for each in arrived(session, "rule", state, **conditions))  # type: ignore[arg-type]  # as given


def test_a_rule_is_for_what_arrives_after_it_began_and_looks_back_behind_its_watermark(
    writer: LakeIndexWriter, session: SQLSession, ledger: Forwards
) -> None:
    assert ledger.state("rule") is None
    ledger.begin("rule", NOW)
    for number, minutes in ((1, -1), (2, 1), (3, 119), (4, 121)):
        arrive(writer, number, NOW + timedelta(minutes=minutes))
    assert found(session, ledger) == ["1.2", "1.3", "1.4"]
    ledger.enter("rule", [], NOW + timedelta(hours=3))
    assert found(session, ledger) == ["1.4"], "what is indexed an hour late is still seen"
    ledger.enter("rule", [], NOW)
    state = ledger.state("rule")
    assert state is not None
    assert state.watermark == NOW + timedelta(hours=3), "it never goes back"


def test_what_is_entered_is_found_no_more_and_entered_once(writer: LakeIndexWriter, session: SQLSession, ledger: Forwards) -> None:
    state = ledger.begin("rule", NOW)
    later = datetime.now(UTC) + timedelta(seconds=1)  # of its reception
    arrive(writer, 1, NOW)
    arrivals = arrived(session, "rule", state)
    assert [ledger.enter("rule", arrivals, NOW), ledger.enter("rule", arrivals, NOW), ledger.enter("other", arrivals, NOW)] == [1, 0, 1]
    arrive(writer, 2, later)
    assert found(session, ledger) == ["1.2"]


def test_modalities_senders_and_conditions_must_all_hold(writer: LakeIndexWriter, session: SQLSession, ledger: Forwards) -> None:
    arrive(writer, 1, NOW)
    arrive(writer, 2, NOW, Modality="MR")
    arrive(writer, 3, NOW, source="O'CT", StudyDescription="Thorax")
    assert found(session, ledger, modalities=["CT", "US"]) == ["1.1", "1.3"]
    assert found(session, ledger, sources=["O'CT"]) == ["1.3"]
    assert found(session, ledger, modalities=["CT"], condition="study.StudyDescription ILIKE '%thorax%' -- chest") == ["1.3"]
    assert found(session, ledger, condition="patient.PatientName LIKE 'Müller%' AND instance.size > 0") == ["1.1", "1.2", "1.3"]
    assert found(session, ledger, modalities=["MR"], condition="false OR true") == ["1.2"], "a condition stands by itself"


@pytest.mark.parametrize(
    "condition",
    [
        "no_such_column = 1",
        "1 = 1; DELETE FROM instance",
        "postgres_query('ops', 'DELETE FROM pacs.peer') IS NULL",
        "instance.size IN (SELECT * FROM read_csv('/etc/passwd'))",
        "1 = ",
    ],
)
def test_a_condition_that_is_none_or_does_more_than_read_is_refused(session: SQLSession, ledger: Forwards, condition: str) -> None:
    with pytest.raises(InvalidSQL):
        found(session, ledger, condition=condition)


def test_a_condition_that_fails_on_a_value_does_not_tell_the_value(writer: LakeIndexWriter, session: SQLSession, ledger: Forwards) -> None:
    arrive(writer, 1, NOW)
    with pytest.raises(InvalidSQL, match="fails on an instance that is held") as failure:
        found(session, ledger, condition="CAST(patient.PatientName AS INTEGER) = 1")
    assert "Jürgen" not in str(failure.value)


def test_what_is_sent_is_sent_for_ever_and_what_is_not_comes_again_after_its_delay(database: Database, ledger: Forwards) -> None:
    ledger.begin("rule", NOW)
    ledger.enter("rule", [Arrival(UID(f"1.{n}.1"), UID(f"1.{n}")) for n in range(1, 5)], NOW)
    uids = [each.SOPInstanceUID for each in ledger.due("rule", 10)]
    assert uids == ["1.1.1", "1.2.1", "1.3.1", "1.4.1"]
    ledger.sent("rule", uids[0], 0)
    ledger.failed("rule", uids[0], 0xA700, "too late", delay=0)
    ledger.failed("rule", uids[1], 0xA700, "away", delay=0)
    ledger.failed("rule", uids[2], 0xC000, "refused", delay=60)
    ledger.failed("rule", uids[3], 0xC000, "gone", delay=None)
    assert [(each.SOPInstanceUID, each.attempts) for each in ledger.due("rule", 10)] == [("1.2.1", 1)]
    with database.transaction() as session:
        rows = session.run('SELECT "SOPInstanceUID", state, attempts, last_status, reason FROM pacs.forward ORDER BY 1')
    assert [list(row) for row in rows] == [
        ["1.1.1", "sent", 1, "0000", ""],
        ["1.2.1", "pending", 1, "A700", "away"],
        ["1.3.1", "pending", 1, "C000", "refused"],
        ["1.4.1", "failed", 1, "C000", "gone"],
    ]


def test_what_was_tried_for_too_long_is_given_up_but_never_what_was_not_tried(ledger: Forwards) -> None:
    ledger.begin("rule", NOW)
    ledger.enter("rule", [Arrival(UID("1.1"), UID("1")), Arrival(UID("1.2"), UID("1"))], NOW)
    ledger.failed("rule", UID("1.1"), 0xA700, "away", delay=0)
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert (ledger.give_up("rule", NOW), ledger.give_up("rule", later), ledger.give_up("rule", later)) == (0, 1, 0)
    assert [each.SOPInstanceUID for each in ledger.due("rule", 10)] == ["1.2"]


def test_a_delay_is_of_its_rule_only_and_ends_when_the_peer_is_there(ledger: Forwards) -> None:
    for rule in ("rule", "other"):
        ledger.begin(rule, NOW)
    ledger.delay("rule", 60, "away")
    delayed, other = ledger.begin("rule", NOW), ledger.begin("other", NOW)
    assert (delayed.is_delayed, delayed.failures, delayed.reason) == (True, 1, "away")
    assert (other.is_delayed, other.failures) == (False, 0)
    ledger.recovered("rule")
    assert not ledger.begin("rule", NOW).is_delayed


def test_one_at_a_time_works_on_a_rule(place: Place, ledger: Forwards) -> None:

    other = Forwards(place.catalog_url)
    with ledger.locked("rule") as first, other.locked("rule") as second, other.locked("another") as third:
        assert (first, second, third) == (True, False, True)
    with other.locked("rule") as again:
        assert again
    other.close()
