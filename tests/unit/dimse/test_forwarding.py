"""What is due is sent and noted: with a peer in the test's hands, and a ledger that is a fake."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.dimse.forwarding import Followed, Forwarder
from pacs_core.dimse.pool import AssociationPool
from pacs_core.index.forwards import Arrival, DueInstance, RuleState
from pacs_core.model import UID, AETitle, Origin, Peer, StoredObject, StoreRequest
from pacs_core.workflow.forward import Rule
from tests.support.peers import FakeCaller
from tests.support.retrieving import MemoryStore, retrieving
from tests.unit.dimse.test_sending import CT, IMPLICIT, Destination

PEER = Peer(AETitle("DEST"), "127.0.0.1", 104)
RULE = Rule("rule", "DEST", give_up_after=timedelta(hours=1))
NOW = datetime(2026, 3, 4, tzinfo=UTC)
BEGUN = RuleState(NOW, NOW, failures=0, is_delayed=False, reason="")


@dataclass
class FakeLedger:
    """Says what is due, and notes what it is told."""

    waiting: list[DueInstance] = field(default_factory=list)
    state: RuleState = BEGUN
    told: list[tuple[object, ...]] = field(default_factory=list)

    def begin(self, rule: str, now: datetime) -> RuleState:
        return self.state

    def enter(self, rule: str, arrivals: Sequence[Arrival], watermark: datetime) -> int:
        self.told.append(("enter", len(arrivals), watermark))
        return len(arrivals)

    def give_up(self, rule: str, entered_before: datetime) -> int:
        assert entered_before == NOW - RULE.give_up_after
        return 0

    def due(self, rule: str, limit: int) -> Sequence[DueInstance]:
        return self.waiting[:limit]

    def sent(self, rule: str, instance: UID, status: int) -> None:
        self.told.append(("sent", instance, status))

    def failed(self, rule: str, instance: UID, status: int, reason: str, *, delay: float | None) -> None:
        self.told.append(("failed", instance, status, delay))

    def delay(self, rule: str, seconds: float, reason: str) -> None:
        self.told.append(("delay", seconds))

    def recovered(self, rule: str) -> None:
        self.told.append(("recovered",))


@dataclass
class Site:
    """A forwarder and what is around it."""

    forwarder: Forwarder
    ledger: FakeLedger
    caller: FakeCaller

    def follow(self, peer: Peer | None = PEER) -> Followed:
        followed = self.forwarder.follow(RULE, peer, lambda _: [], NOW)
        assert self.ledger.told.pop(0) == ("enter", 0, NOW)
        return followed


@contextmanager
def site(cache: Path, *due: DueInstance, missing: str = "") -> Iterator[Site]:
    """With the instances of these, all of them held but one."""
    store, objects = MemoryStore(), list[StoredObject]()
    for each in due:
        request = StoreRequest(UID(CT), each.SOPInstanceUID, UID(IMPLICIT), Origin("A", "B", NOW))
        content = build_file_meta(request) + b"\x08\x00\x18\x00\x06\x00\x00\x001.2.3."
        path, digest = f"{each.SOPInstanceUID}.dcm", hashlib.sha256(content).hexdigest()
        store.objects[path] = content
        ids = each.SOPInstanceUID, UID(CT), UID(IMPLICIT), UID("1.9"), each.StudyInstanceUID
        objects += [StoredObject(*ids, "warm", path, len(content), digest)] if each.SOPInstanceUID != missing else []
    caller, ledger = FakeCaller(), FakeLedger(list(due))
    pool = AssociationPool(caller, idle=0)
    with retrieving({"warm": store}, cache) as retrieval:
        forwarder = Forwarder(ledger, lambda studies: [each for each in objects if each.StudyInstanceUID in studies], retrieval, pool)
        yield Site(forwarder, ledger, caller)
    pool.close()
    caller.close()


def due(study: int, instance: int, attempts: int = 0) -> DueInstance:
    return DueInstance(UID(f"1.{study}"), UID(f"1.{study}.{instance}"), attempts)


def test_each_answer_is_noted_and_a_refusal_waits_by_how_often_it_has_failed(tmp_path: Path) -> None:
    with site(tmp_path, due(1, 1), due(1, 2, attempts=2), due(2, 1)) as here, Destination(here.caller, 0, 0xC000, 0xB000).serving():
        assert here.follow() == Followed("rule", "DEST", sent=2, failed=1)
        assert here.ledger.told == [("sent", "1.1.1", 0), ("failed", "1.1.2", 0xC000, 240.0), ("sent", "1.2.1", 0xB000)]


def test_a_peer_that_is_away_is_called_once_and_then_left_alone(tmp_path: Path) -> None:
    with site(tmp_path, due(1, 1), due(2, 1), due(3, 1)) as here:
        here.caller.away = True
        here.ledger.state = replace(here.ledger.state, failures=3)
        assert here.follow() == Followed("rule", "DEST", failed=1, reason="DEST does not answer")
        assert here.ledger.told == [("failed", "1.1.1", 0xA700, 60.0), ("delay", 480.0)]


def test_a_peer_that_is_back_is_told_so(tmp_path: Path) -> None:
    with site(tmp_path, due(1, 1)) as here, Destination(here.caller).serving():
        here.ledger.state = replace(here.ledger.state, failures=3)
        assert here.follow().sent == 1
        assert here.ledger.told == [("sent", "1.1.1", 0), ("recovered",)]


def test_an_association_that_breaks_once_does_not_mean_that_the_peer_is_away(tmp_path: Path) -> None:
    with site(tmp_path, due(1, 1), due(1, 2), due(1, 3)) as here, Destination(here.caller, 0, None).serving():
        assert here.follow() == Followed("rule", "DEST", sent=2, failed=1)


def test_what_is_not_held_any_more_has_failed_for_good(tmp_path: Path) -> None:
    with site(tmp_path, due(1, 1), due(1, 2), missing="1.1.1") as here, Destination(here.caller).serving():
        assert here.follow() == Followed("rule", "DEST", sent=1, failed=1)
        assert here.ledger.told == [("failed", "1.1.1", 0xC000, None), ("sent", "1.1.2", 0)]


def test_nothing_is_sent_while_the_peer_is_left_alone_or_unknown(tmp_path: Path) -> None:
    with site(tmp_path, due(1, 1)) as here:
        assert here.follow(None) == Followed("rule", "DEST", reason="DEST is no peer", is_wrong=True)
        here.ledger.state = replace(here.ledger.state, is_delayed=True, reason="away")
        assert here.follow() == Followed("rule", "DEST", reason="away")
        assert (here.ledger.told, here.caller.theirs) == ([], [])
