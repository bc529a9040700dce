"""Storage Commitment Push Model: N-ACTION of peers as SCP, N-EVENT-REPORT of peers as SCU (PS3.4 annex J)."""

from collections.abc import Callable

import structlog

from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import AssociationEnded
from pacs_core.dimse.courier import Courier
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import UNCOMPRESSED, Service, normalized
from pacs_core.dimse.services.normalized import Reply, Request
from pacs_core.errors import NotFound, PacsError, UnknownAction
from pacs_core.model import Permission
from pacs_core.ports import PeerDirectory
from pacs_core.ports.commitment import Commitments, Entered, Requests
from pacs_core.workflow.commitment import INSTANCE, PUSH_MODEL, REQUEST, answer_of, request_of
from pacs_core.workflow.committing import CommitmentChecker

log = structlog.get_logger(__name__)


class CommitmentService(Service):
    """Takes requests, and answers to ours.

    A peer that is entered is told the result on an association of our own. Another one is told on its own association, if it waits for
    it there: who says the next thing, or hangs up, is told when it is entered as a peer.

    Args:
        commitments: where requests are kept.
        requests: what we have asked of peers.
        checker: looks at the instances.
        courier: delivers the results.
        peers: who can be called.
    """

    permission = Permission.COMMITMENT

    def __init__(
        self, commitments: Commitments, requests: Requests, checker: CommitmentChecker, courier: Courier, peers: PeerDirectory
    ) -> None:
        self._commitments = commitments
        self._requests = requests
        self._checker = checker
        self._courier = courier
        self._peers = peers

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """The push model, in every uncompressed transfer syntax."""
        return UNCOMPRESSED if abstract_syntax == PUSH_MODEL else frozenset()

    def peer_may_be_scp(self, abstract_syntax: str) -> bool:
        """To answer a request of ours."""
        return abstract_syntax == PUSH_MODEL

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """Answer one message."""
        if context.as_scp and command.CommandField == CommandField.N_ACTION:
            normalized.serve(assoc, context, command, {CommandField.N_ACTION: lambda request: self._take(assoc, request)})
        elif context.as_scu:
            normalized.serve(assoc, context, command, {CommandField.N_EVENT_REPORT: self._answered})
        else:
            normalized.serve(assoc, context, command, {})

    def _take(self, assoc: Association, request: Request) -> Reply:
        if request.sop_instance != INSTANCE:
            raise NotFound(f"storage commitment is asked of the well-known instance {INSTANCE}")
        if request.type_id != REQUEST:
            raise UnknownAction(f"storage commitment has no action {request.type_id}")
        transaction, references = request_of(request.attributes)
        entered = self._commitments.enter(request.calling_ae, transaction, references)
        log.info("commitment_requested", association=assoc.id, TransactionUID=transaction, instances=len(references))
        is_known = self._peers.get(request.calling_ae) is not None
        if not is_known:
            return Reply(then=self._reporting(assoc, entered))
        return Reply(then=self._checker.hasten if entered.report is None else self._courier.hasten)

    def _reporting(self, assoc: Association, entered: Entered) -> Callable[[], None]:
        def report() -> None:
            try:
                owed = self._checker.check(entered.number) if entered.report is None else entered.report
                if owed is not None and not assoc.connection.readable():
                    self._courier.deliver_over(assoc, owed)
            except AssociationEnded:
                raise
            except PacsError as exc:
                log.info("commitment_left_for_later", association=assoc.id, reason=str(exc))

        return report

    def _answered(self, request: Request) -> Reply:
        transaction, failures = answer_of(request.attributes, request.type_id)
        self._requests.answered(transaction, failures)
        log.info("commitment_answered", association=request.association, TransactionUID=transaction, failed=len(failures))
        return Reply()
