"""Delivers event reports to peers: on associations of our own, in which we are the SCP (PS3.7 10.1.1, D.3.3.4)."""

import time
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby

import structlog

from pacs_core.dicom.json_model import from_json
from pacs_core.dimse import client
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.command import CommandField
from pacs_core.dimse.negotiation import LITTLE_ENDIAN, Proposal
from pacs_core.errors import PacsError, PeerUnavailable
from pacs_core.ports import PeerDirectory
from pacs_core.ports.modality import Claimed, EventReports, Report
from pacs_core.workflow.retries import Retries
from pacs_core.workflow.worker import Worker

log = structlog.get_logger(__name__)

_AT_ONCE = 10
_LEASE = timedelta(seconds=30)  # after which another process takes up what this one was at
_SUCCESS = 0x0000


class Courier(Worker):
    """A thread that delivers what is owed. Several processes may each have one.

    Args:
        reports: what is owed.
        peers: where the peers are. One that is not entered is waited for.
        caller: opens associations.
        retries: when a report is tried again that could not be delivered.
    """

    def __init__(self, reports: EventReports, peers: PeerDirectory, caller: Caller, retries: Retries) -> None:
        self._reports = reports
        self._peers = peers
        self._caller = caller
        self._retries = retries
        super().__init__(self.deliver_due, name="courier")

    def deliver_over(self, assoc: Association, number: int) -> None:
        """Try one report over an association of the peer's. AssociationEnded if that ends; the report stays owed then."""
        for claimed in self._reports.claim(limit=1, lease=_LEASE, number=number):
            self._report(assoc, claimed)

    def deliver_due(self) -> bool:
        """Try what is due now, a few at a time; whether there was anything."""
        claimed = self._reports.claim(limit=_AT_ONCE, lease=_LEASE)
        by_line = sorted(claimed, key=lambda each: (*_line(each), each.number))  # what happened first is told first
        for (peer, context_class), group in groupby(by_line, key=_line):
            self._deliver(peer, context_class, list(group))
        return bool(claimed)

    def _deliver(self, peer: str, context_class: str, group: Sequence[Claimed]) -> None:
        """Over one association; where that ends, the line is left alone for a while. What was ours for long is left to the next claim."""
        left, until = list(group), time.monotonic() + _LEASE.total_seconds() / 2
        try:
            assoc = self._associate(peer, context_class)
            try:
                while left and time.monotonic() < until and not self.is_stopping:
                    self._report(assoc, left.pop(0))
            finally:
                assoc.release()
        except PacsError as exc:
            log.warning("reports_not_delivered", peer=peer, reports=len(left), reason=str(exc))
            for claimed in left:
                self._put_off(claimed, str(exc))
            self._reports.hold(peer, context_class, self._retries.delay(group[0].attempts))

    def _associate(self, peer: str, context_class: str) -> Association:
        known = self._peers.get(peer)
        if known is None:
            raise PeerUnavailable(f"{peer} is not a peer; `pacs peer add` enters it")
        return self._caller.associate(known, [Proposal(context_class, LITTLE_ENDIAN, scp_role=True)])

    def _report(self, assoc: Association, claimed: Claimed) -> None:
        try:
            status = report_over(assoc, claimed.report)
        except PacsError as exc:
            self._put_off(claimed, str(exc))
            raise
        if status == _SUCCESS:
            self._reports.delivered(claimed.number)
            told = claimed.report
            log.info("report_delivered", peer=told.peer, SOPInstanceUID=told.sop_instance, event_type=told.event_type)
        else:
            self._put_off(claimed, f"the peer answered with status {status:04X}")

    def _put_off(self, claimed: Claimed, reason: str) -> None:
        after = self._retries.after(claimed.attempts, claimed.age)
        if after is None:
            log.error("report_given_up", peer=claimed.report.peer, SOPInstanceUID=claimed.report.sop_instance, reason=reason)
        self._reports.failed(claimed.number, reason, after)


def report_over(assoc: Association, report: Report) -> int:
    """N-EVENT-REPORT over an association in which we are SCP; the status. AssociationEnded if it has ended instead."""
    attributes = from_json(report.attributes)
    answer, _ = client.normalized(
        assoc,
        report.sop_class,
        CommandField.N_EVENT_REPORT,
        report.sop_instance,
        attributes or None,
        type_id=report.event_type,
        context_class=report.context_class,
    )
    return answer.Status or _SUCCESS


def _line(claimed: Claimed) -> tuple[str, str]:
    return claimed.report.peer, claimed.report.context_class
