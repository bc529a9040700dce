"""Retrieve SCP: C-MOVE and C-GET (PS3.4 C.4.2, C.4.3). Both are a run of C-STORE sub-operations, counted truthfully."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import structlog
from pydicom import Dataset

from pacs_core.archive.queries import Queries
from pacs_core.archive.retrieval import Retrieval, Session
from pacs_core.dimse import identifiers, sending
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import AssociationEnded
from pacs_core.dimse.information_models import MODELS, Operation
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.pool import AssociationPool
from pacs_core.dimse.services import CANCEL, PENDING, SUCCESS, UNCOMPRESSED, Service, refuse
from pacs_core.dimse.services.query import options_of, query_of
from pacs_core.errors import InvalidIdentifier, PacsError, UnknownDestination
from pacs_core.model import Permission, Query, StoredObject
from pacs_core.ports import PeerDirectory
from pacs_core.telemetry.timing import TOTAL, Timings

log = structlog.get_logger(__name__)

SUB_OPERATIONS_FAILED_FOR_SOME = 0xB000
UNABLE_TO_PERFORM_SUB_OPERATIONS = 0xA702
SUB_OPERATION = "sub-operation"  # its name among the timings: from the C-STORE request to its response
_REASONS = 10  # that the log tells of one retrieve
_COUNTER_LIMIT = 0xFFFF  # they are US; a retrieve may have more sub-operations than they can tell
_OPERATIONS: Mapping[int, Operation] = {CommandField.C_MOVE: Operation.MOVE, CommandField.C_GET: Operation.GET}

# Sends instances one by one, as the session opens them, and tells the outcome of each.
Deliver = Callable[[Sequence[StoredObject], Session], Generator[sending.Outcome[StoredObject], None, None]]


@dataclass(slots=True)
class SubOperations:
    """The counters of a retrieve (PS3.4 C.4.2.1.6 to 9) and what failed."""

    remaining: int
    completed: int = 0
    warning: int = 0
    failed_uids: list[str] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)  # of our own, with the instances that they kept from being sent

    def count(self, outcome: sending.Outcome[StoredObject]) -> None:
        """Enter the outcome of one sub-operation."""
        self.remaining -= 1
        if not sending.is_success(outcome.status):
            self.failed_uids.append(outcome.instance.SOPInstanceUID)
        elif sending.is_warning(outcome.status):
            self.warning += 1
        else:
            self.completed += 1
        if outcome.reason:
            reason = outcome.reason if outcome.reason in self.reasons or len(self.reasons) < _REASONS else "other reasons"
            self.reasons.setdefault(reason, []).append(outcome.instance.SOPInstanceUID)

    def final_status(self) -> int:
        """Of the retrieve as a whole, once nothing remains."""
        if not self.failed_uids:
            return SUB_OPERATIONS_FAILED_FOR_SOME if self.warning else SUCCESS
        return SUB_OPERATIONS_FAILED_FOR_SOME if self.completed or self.warning else UNABLE_TO_PERFORM_SUB_OPERATIONS

    def main_reason(self) -> str:
        """Of our own, what kept most instances from being sent; "" if nothing did."""
        return max(self.reasons, key=lambda reason: len(self.reasons[reason]), default="")

    def fill(self, response: Command) -> Command:
        """Write the counters into a response. `Remaining` stands in pending and cancel responses only."""
        if response.Status in (PENDING, CANCEL):
            response.NumberOfRemainingSuboperations = min(self.remaining, _COUNTER_LIMIT)
        response.NumberOfCompletedSuboperations = min(self.completed, _COUNTER_LIMIT)
        response.NumberOfFailedSuboperations = min(len(self.failed_uids), _COUNTER_LIMIT)
        response.NumberOfWarningSuboperations = min(self.warning, _COUNTER_LIMIT)
        return response


class Retrieve(Service):
    """Answers C-MOVE and C-GET.

    Args:
        queries: finds what an identifier names.
        retrieval: gives the bytes.
        peers: the destinations of C-MOVE.
        pool: lends associations to them.
        timings: takes note of how long finding takes, and each sub-operation.
    """

    permission = Permission.RETRIEVE

    def __init__(self, queries: Queries, retrieval: Retrieval, peers: PeerDirectory, pool: AssociationPool, timings: Timings) -> None:
        self._queries = queries
        self._retrieval = retrieval
        self._peers = peers
        self._pool = pool
        self._timings = timings

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """The move and get SOP classes, in every uncompressed transfer syntax."""
        model = MODELS.get(abstract_syntax)
        return UNCOMPRESSED if model and model.operation in _OPERATIONS.values() else frozenset()

    def extended(self, abstract_syntax: str, proposed: bytes) -> bytes | None:
        """Those of a query."""
        return options_of(abstract_syntax, proposed)

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """Perform the sub-operations, with a pending response after each, then send the final response."""
        if _OPERATIONS.get(command.CommandField) is not MODELS[context.served_as].operation:
            refuse(assoc, context, command)
            return
        try:
            self._retrieve(assoc, context, command)
        except AssociationEnded:
            raise
        except PacsError as exc:
            log.warning("retrieve_refused", association=assoc.id, reason=str(exc))
            assoc.send(context, command.response(exc.dimse_status, error_comment=str(exc)))

    def _retrieve(self, assoc: Association, context: Context, command: Command) -> None:
        data = assoc.identifier(context) if command.has_data_set else b""
        query = query_of(assoc, context, identifiers.decode(data, context.transfer_syntax))
        _check_unique_key(query)
        operation = command.operation
        deliver = self._mover(assoc, command) if command.CommandField == CommandField.C_MOVE else self._getter(assoc, command)
        with self._timings.measure(operation, "locate"):
            instances = self._queries.locate(query)
        counters = SubOperations(remaining=len(instances))
        with self._retrieval.session(instances) as session, closing(deliver(instances, session)) as outcomes:
            status = self._perform(assoc, context, command, outcomes, counters)
        _log_end(assoc, operation, status, counters)
        failed = identifiers.encode(_failed_list(counters), context.transfer_syntax) if counters.failed_uids else None
        assoc.send(context, counters.fill(command.response(status, error_comment=counters.main_reason())), failed)

    def _mover(self, assoc: Association, command: Command) -> Deliver:
        peer = self._peers.get(command.MoveDestination or "")
        if peer is None:
            raise UnknownDestination(f"move destination {command.MoveDestination!r} is not a peer")
        if not peer.may(Permission.RECEIVE):
            raise UnknownDestination(f"move destination {command.MoveDestination!r} may not receive")
        originator = sending.MoveOriginator(assoc.agreement.calling_ae, command.MessageID or 0)
        wanted = _wanted(assoc, command)
        return lambda found, session: sending.deliver(self._pool, peer, found, session.open, originator=originator, proceed=wanted)

    def _getter(self, assoc: Association, command: Command) -> Deliver:
        def deliver(instances: Sequence[StoredObject], session: Session) -> Generator[sending.Outcome[StoredObject], None, None]:
            courier = sending.Courier(assoc, deque(instances), session.open, proceed=_wanted(assoc, command))
            yield from courier.outcomes()
            if courier.lost is not None:
                raise courier.lost[1]

        return deliver

    def _perform(
        self,
        assoc: Association,
        context: Context,
        command: Command,
        outcomes: Iterable[sending.Outcome[StoredObject]],
        counters: SubOperations,
    ) -> int:
        """Run the sub-operations; the status of the final response."""
        for outcome in outcomes:
            counters.count(outcome)
            self._timings.record(SUB_OPERATION, TOTAL, outcome.seconds, status=f"{outcome.status:04X}", size=outcome.size)
            if counters.remaining:
                assoc.send(context, counters.fill(command.response(PENDING)))
        return CANCEL if counters.remaining else counters.final_status()


def _wanted(assoc: Association, command: Command) -> Callable[[], bool]:
    """Whether the requestor of a retrieve still wants it, as far as it has said."""
    return lambda: not assoc.cancelled(command.MessageID or 0)


def _log_end(assoc: Association, operation: str, status: int, counters: SubOperations) -> None:
    """One event for a retrieve, and one for each reason why instances were not sent."""
    for reason, uids in counters.reasons.items():
        log.warning("sub_operations_failed", association=assoc.id, reason=reason, instances=len(uids), SOPInstanceUID=uids[0])
    log.info(
        "retrieve_done",
        association=assoc.id,
        operation=operation,
        status=f"{status:04X}",
        completed=counters.completed,
        failed=len(counters.failed_uids),
    )


def _check_unique_key(query: Query) -> None:
    """A retrieve names its entities by unique key, one or a list of UIDs (PS3.4 C.4.2.1.4.1)."""
    value = query.keys.get(query.level.key, "")
    if not isinstance(value, str) or not value.strip():
        raise InvalidIdentifier(f"a retrieve at {query.level} level needs a value for {query.level.key}")
    if "*" in value or "?" in value:
        raise InvalidIdentifier(f"{query.level.key} of a retrieve is a unique key and takes no wildcards")


def _failed_list(counters: SubOperations) -> Dataset:
    ds = Dataset()
    ds.FailedSOPInstanceUIDList = counters.failed_uids
    return ds
