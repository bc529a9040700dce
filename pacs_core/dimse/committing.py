"""Asks a peer for storage commitment, as SCU, and waits for its answer (PS3.4 J.3.2)."""

import time
from collections.abc import Mapping, Sequence

from pacs_core.dimse import client
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.command import CommandField
from pacs_core.dimse.connection import AssociationEnded, ReleaseRequested
from pacs_core.dimse.negotiation import LITTLE_ENDIAN, Proposal
from pacs_core.dimse.services import normalized
from pacs_core.dimse.services.normalized import Reply, Request
from pacs_core.errors import PeerUnavailable
from pacs_core.model import Peer, new_uid
from pacs_core.ports.commitment import Reference, Requests
from pacs_core.workflow.commitment import INSTANCE, PUSH_MODEL, REQUEST, answer_of, request_for

_POLL = 0.2  # seconds


def ask(caller: Caller, peer: Peer, references: Sequence[Reference], requests: Requests, *, timeout: float) -> Mapping[str, int]:
    """The failure reasons of instances that the peer does not commit to; none if it commits to all.

    The answer may come on the association of the request, which is held open, or on one of the peer's to our listener, which enters it
    among the requests. PeerUnavailable if the peer refuses, or where neither has come after so many seconds.
    """
    transaction = new_uid()
    requests.ask(str(peer.ae_title), transaction, references)
    assoc = caller.associate(peer, [Proposal(PUSH_MODEL, LITTLE_ENDIAN)])
    try:
        answer, _ = client.normalized(
            assoc, PUSH_MODEL, CommandField.N_ACTION, INSTANCE, request_for(transaction, references), type_id=REQUEST
        )
        client.check_final(assoc, answer)
        return _await(assoc, requests, transaction, timeout)
    finally:
        assoc.release()


def _await(assoc: Association, requests: Requests, transaction: str, timeout: float) -> Mapping[str, int]:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if assoc.connection.is_open and assoc.connection.readable():
            _take_message(assoc, requests)
        failures = requests.outcome(transaction)
        if failures is not None:
            return failures
        time.sleep(_POLL)
    raise PeerUnavailable(f"no commitment after {timeout:g} s; the answer to Transaction UID {transaction} may still come to the listener")


def _take_message(assoc: Association, requests: Requests) -> None:
    """The answer, or that the peer has had enough of the association: then it comes on another one."""

    def answered(request: Request) -> Reply:
        requests.answered(*answer_of(request.attributes, request.type_id))
        return Reply()

    try:
        context, command = assoc.receive()
        normalized.serve(assoc, context, command, {CommandField.N_EVENT_REPORT: answered})
    except ReleaseRequested:
        assoc.connection.confirm_release()
    except AssociationEnded:
        assoc.connection.close()
