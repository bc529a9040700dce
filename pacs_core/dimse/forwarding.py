"""What has arrived is sent on to a peer: study by study, and each outcome is noted before the next instance goes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Protocol

import structlog

from pacs_core.archive.retrieval import Retrieval
from pacs_core.dimse import sending
from pacs_core.dimse.pool import AssociationPool
from pacs_core.dimse.sending import Outcome
from pacs_core.errors import ObjectMissing
from pacs_core.index.forwards import Arrival, DueInstance, RuleState
from pacs_core.model import UID, Peer, StoredObject
from pacs_core.workflow.forward import Rule, delay_after

log = structlog.get_logger(__name__)


_AT_ONCE = 1000  # instances that are sent before the flow looks again whether it is still wanted


class Ledger(Protocol):
    """What is to be sent, and what came of it; see index.forwards.Forwards."""

    def begin(self, rule: str, now: datetime) -> RuleState:
        """How far the rule has come."""

    def enter(self, rule: str, arrivals: Sequence[Arrival], watermark: datetime) -> int:
        """What has arrived is to be sent."""

    def give_up(self, rule: str, entered_before: datetime) -> int:
        """What was tried for too long has failed."""

    def due(self, rule: str, limit: int) -> Sequence[DueInstance]:
        """What is to be sent now."""

    def delay(self, rule: str, seconds: float, reason: str) -> None:
        """The peer is away."""

    def recovered(self, rule: str) -> None:
        """The peer is there."""

    def sent(self, rule: str, instance: UID, status: int) -> None:
        """The peer has acknowledged it."""

    def failed(self, rule: str, instance: UID, status: int, reason: str, *, delay: float | None) -> None:
        """It could not be sent."""


@dataclass(slots=True)
class Sent:
    """What came of sending.

    Attributes:
        sent: instances that the peer has acknowledged.
        failed: those that it did not take, or that could not be read.
        away: why the peer could not be reached; "" if it could.
    """

    sent: int = 0
    failed: int = 0
    away: str = ""


@dataclass(frozen=True, slots=True)
class Followed:
    """What came of a rule.

    Attributes:
        entered: instances that are newly to be sent.
        given_up: instances that were tried for too long.
        reason: why nothing or not all was sent; "" where there is no reason.
        is_wrong: that reason is for a person to see to.
        is_left: more could be sent at once.
    """

    rule: str
    peer: str
    entered: int = 0
    sent: int = 0
    failed: int = 0
    given_up: int = 0
    reason: str = ""
    is_wrong: bool = False
    is_left: bool = False


class Forwarder:
    """Follows rules. One process at a time may follow a rule.

    Args:
        ledger: is told each outcome.
        objects: where the instances of studies are.
        retrieval: gives the bytes.
        pool: lends associations.
    """

    def __init__(
        self, ledger: Ledger, objects: Callable[[Sequence[UID]], Sequence[StoredObject]], retrieval: Retrieval, pool: AssociationPool
    ) -> None:
        self._ledger = ledger
        self._objects = objects
        self._retrieval = retrieval
        self._pool = pool

    def follow(self, rule: Rule, peer: Peer | None, arrived: Callable[[RuleState], Sequence[Arrival]], now: datetime) -> Followed:
        """Enter what has arrived until now, and send some of what is due.

        Args:
            peer: None if nobody of that name is known.
            arrived: finds what the rule names and is not entered yet. Everything acknowledged before now has to be found.
        """
        state = self._ledger.begin(rule.name, now)
        entered = self._ledger.enter(rule.name, arrived(state), now)
        given_up = self._ledger.give_up(rule.name, now - rule.give_up_after)
        if peer is None:
            return Followed(rule.name, rule.peer, entered, given_up=given_up, reason=f"{rule.peer} is no peer", is_wrong=True)
        if state.is_delayed:
            return Followed(rule.name, rule.peer, entered, given_up=given_up, reason=state.reason)
        due = self._ledger.due(rule.name, _AT_ONCE)
        result = self._send(rule.name, peer, due)
        if result.away:
            self._ledger.delay(rule.name, delay_after(state.failures), result.away)
        elif state.failures and due:
            self._ledger.recovered(rule.name)
        is_left = len(due) == _AT_ONCE and not result.away
        return Followed(rule.name, rule.peer, entered, result.sent, result.failed, given_up, result.away, is_left=is_left)

    def _send(self, rule: str, peer: Peer, due: Sequence[DueInstance]) -> Sent:
        """Send instances to a peer until all are done, or it turns out to be away: it is not called once more for what is left."""
        result = Sent()
        for _, of_study in groupby(due, key=lambda each: each.StudyInstanceUID):
            self._send_study(rule, peer, {each.SOPInstanceUID: each for each in of_study}, result)
            if result.away:
                break
        log.info("forwarded", rule=rule, peer=peer.ae_title, sent=result.sent, failed=result.failed, away=bool(result.away))
        return result

    def _send_study(self, rule: str, peer: Peer, due: dict[UID, DueInstance], result: Sent) -> None:
        study = next(iter(due.values())).StudyInstanceUID
        objects = [each for each in self._objects([study]) if each.SOPInstanceUID in due]
        for gone in due.keys() - {each.SOPInstanceUID for each in objects}:
            self._ledger.failed(rule, gone, ObjectMissing.dimse_status, "it is not held any more", delay=None)
            result.failed += 1
        noted: set[UID] = set()

        def note(outcome: Outcome[StoredObject]) -> None:
            uid = outcome.instance.SOPInstanceUID
            noted.add(uid)
            if sending.is_success(outcome.status):
                self._ledger.sent(rule, uid, outcome.status)
                result.sent += 1
                result.away = ""
                return
            reason = outcome.reason or f"{peer.ae_title} answered with status {outcome.status:04X}"
            self._ledger.failed(rule, uid, outcome.status, reason, delay=delay_after(due[uid].attempts))
            result.failed += 1
            result.away = outcome.reason if outcome.is_away else ""

        with self._retrieval.session(objects) as session:
            for outcome in sending.deliver(self._pool, peer, objects, session.open, answered=note):
                if outcome.instance.SOPInstanceUID not in noted:
                    note(outcome)
