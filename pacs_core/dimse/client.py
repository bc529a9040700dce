"""The archive as SCU: opens associations to peers and performs C-ECHO, C-FIND, C-MOVE, C-GET and the DIMSE-N services (PS3.7 9.1, 10.1)."""

import itertools
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydicom import Dataset

from pacs_core.dimse import identifiers, negotiation
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import Connection, ProtocolViolation, Rejected
from pacs_core.dimse.negotiation import Agreement, Context, Proposal
from pacs_core.errors import ConfigurationError, PeerUnavailable
from pacs_core.model import Peer

_ids = itertools.count(1)
_MEDIUM_PRIORITY = 0


class NotAcceptedByPeer(PeerUnavailable):
    """The peer is there, and accepted no presentation context for what was to be done."""

    retryable = False


@dataclass(frozen=True)
class TLS:
    """How peers are called over TLS (PS3.15 B.9: the profile is the one of the system's OpenSSL, TLS 1.2 at least).

    Attributes:
        ca_file: PEM certificates of whom peers are believed to be; "" for the system's.
        certificate_file, key_file: PEM, ours, for peers that ask for one; "" for none.
    """

    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    @cached_property
    def context(self) -> ssl.SSLContext:
        """ConfigurationError if a file cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.certificate_file:
                context.load_cert_chain(self.certificate_file, self.key_file or None)
        except OSError as exc:
            raise ConfigurationError(f"tls_ca_file, tls_certificate_file, tls_key_file: {exc.strerror or exc}") from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


class Caller:
    """Opens associations in our name.

    Args:
        ae_title: ours.
        timeout: seconds for the connection, for the peer's answer to the request, and of silence within a message.
        tls: how peers are called that are entered with TLS.
    """

    def __init__(self, ae_title: str, *, timeout: float = 30, tls: TLS = TLS()) -> None:
        self.ae_title = ae_title
        self._timeout = timeout
        self._tls = tls

    def associate(self, peer: Peer, proposals: Sequence[Proposal]) -> Association:
        """An open association; to be released by the caller. PeerUnavailable if the peer is not there, or refuses (NotAcceptedByPeer)."""
        connection = Connection(self._connect(peer), requestor=True, timeout=self._timeout)
        try:
            agreement = _agree(connection, self.ae_title, peer, proposals)
        except PeerUnavailable:
            connection.abort()
            raise
        connection.peer_maximum = agreement.peer_maximum
        return Association(f"out-{next(_ids)}", connection, agreement, f"{peer.host}:{peer.port}")

    def _connect(self, peer: Peer) -> socket.socket:
        where = f"{peer.ae_title} at {peer.host}:{peer.port}"
        try:
            sock = socket.create_connection((peer.host, peer.port), timeout=self._timeout)
        except OSError as exc:
            raise PeerUnavailable(f"{where} does not answer: {exc.strerror or exc}") from exc
        if not peer.tls:
            return sock
        try:
            return self._tls.context.wrap_socket(sock, server_hostname=peer.host)
        except (OSError, ConfigurationError) as exc:
            sock.close()
            if isinstance(exc, ConfigurationError):
                raise
            raise PeerUnavailable(f"{where} cannot be called over TLS: {exc.strerror or exc}") from exc


def _agree(connection: Connection, ae_title: str, peer: Peer, proposals: Sequence[Proposal]) -> Agreement:
    try:
        answer = connection.request(negotiation.request(ae_title, peer.ae_title, proposals))
    except Rejected as exc:
        raise PeerUnavailable(f"{peer.ae_title} rejected the association: {negotiation.rejection_text(exc.pdu)}") from exc
    agreement = negotiation.conclude(answer, proposals)
    if not agreement.contexts:
        raise NotAcceptedByPeer(f"{peer.ae_title} accepted none of the proposed presentation contexts")
    return agreement


def context_for(assoc: Association, abstract_syntax: str, *, scu: bool = True) -> Context:
    """The context of a SOP class in which we are SCU, or SCP; NotAcceptedByPeer if there is none."""
    context = assoc.agreement.context_for(abstract_syntax, scu=scu)
    if context is None:
        raise NotAcceptedByPeer(f"{assoc.agreement.called_ae} does not offer SOP class {abstract_syntax}")
    return context


def echo(assoc: Association, sop_class: str) -> int:
    """C-ECHO; the status."""
    context, message_id = context_for(assoc, sop_class), assoc.next_message_id()
    assoc.send(context, Command(CommandField=CommandField.C_ECHO, MessageID=message_id, AffectedSOPClassUID=sop_class))
    _, answer = assoc.receive_response(message_id)
    return _status(answer)


def find(assoc: Association, sop_class: str, identifier: Dataset) -> Iterator[Dataset]:
    """C-FIND; the matches. PeerUnavailable with the status if it ends in failure."""
    context, message_id = context_for(assoc, sop_class), assoc.next_message_id()
    command = Command(CommandField=CommandField.C_FIND, MessageID=message_id, AffectedSOPClassUID=sop_class, Priority=_MEDIUM_PRIORITY)
    assoc.send(context, command, identifiers.encode(identifier, context.transfer_syntax))
    while True:
        answer_context, answer = assoc.receive_response(message_id)
        data = assoc.identifier(answer_context) if answer.has_data_set else b""
        if not is_pending(_status(answer)):
            check_final(assoc, answer)
            return
        yield identifiers.decode(data, answer_context.transfer_syntax)


def move(assoc: Association, sop_class: str, identifier: Dataset, destination: str) -> Iterator[Command]:
    """C-MOVE; every response, the final one last, with its counters."""
    context, message_id = context_for(assoc, sop_class), assoc.next_message_id()
    command = Command(
        CommandField=CommandField.C_MOVE,
        MessageID=message_id,
        AffectedSOPClassUID=sop_class,
        Priority=_MEDIUM_PRIORITY,
        MoveDestination=destination,
    )
    assoc.send(context, command, identifiers.encode(identifier, context.transfer_syntax))
    while True:
        answer_context, answer = assoc.receive_response(message_id)
        assoc.skip_data_set(answer_context, answer)
        yield answer
        if not is_pending(_status(answer)):
            return


def get(
    assoc: Association, sop_class: str, identifier: Dataset, receive: Callable[[Association, Context, Command], None]
) -> Iterator[Command]:
    """C-GET; every response, the final one last. Each C-STORE in between is handed to `receive`, which answers it."""
    context, message_id = context_for(assoc, sop_class), assoc.next_message_id()
    command = Command(CommandField=CommandField.C_GET, MessageID=message_id, AffectedSOPClassUID=sop_class, Priority=_MEDIUM_PRIORITY)
    assoc.send(context, command, identifiers.encode(identifier, context.transfer_syntax))
    while True:
        answer_context, answer = assoc.receive(idle=assoc.response_timeout)
        if answer.CommandField == CommandField.C_STORE:
            receive(assoc, answer_context, answer)
            continue
        if answer.MessageIDBeingRespondedTo != message_id:
            raise ProtocolViolation("a message that belongs to no operation")
        assoc.skip_data_set(answer_context, answer)
        yield answer
        if not is_pending(_status(answer)):
            return


def normalized(
    assoc: Association,
    sop_class: str,
    operation: CommandField,
    sop_instance: str = "",
    attributes: Dataset | None = None,
    *,
    type_id: int = 0,
    context_class: str = "",
) -> tuple[Command, Dataset]:
    """A DIMSE-N request; its response and the data set of that (empty where it has none).

    Args:
        sop_class: what it is about, and, without `context_class`, the presentation context that it goes over. An N-EVENT-REPORT goes
            over one in which we are SCP, all others over one in which we are SCU.
        operation: one of the N_ fields.
        sop_instance: "" lets the SCP of an N-CREATE assign one.
        attributes: the request's data set; None for none.
        type_id: of an N-ACTION or N-EVENT-REPORT.

    PeerUnavailable if the peer accepted no such context. The status is for the caller to judge.
    """
    is_event = operation is CommandField.N_EVENT_REPORT
    context, message_id = context_for(assoc, context_class or sop_class, scu=not is_event), assoc.next_message_id()
    command = Command(CommandField=operation, MessageID=message_id)
    if is_event or operation is CommandField.N_CREATE:
        command.AffectedSOPClassUID, command.AffectedSOPInstanceUID = sop_class, sop_instance or None
    else:
        command.RequestedSOPClassUID, command.RequestedSOPInstanceUID = sop_class, sop_instance
    command.EventTypeID = type_id if is_event else None
    command.ActionTypeID = type_id if operation is CommandField.N_ACTION else None
    assoc.send(context, command, None if attributes is None else identifiers.encode(attributes, context.transfer_syntax))
    answer_context, answer = assoc.receive_response(message_id)
    _status(answer)
    if not answer.has_data_set:
        return answer, Dataset()
    return answer, identifiers.decode(assoc.identifier(answer_context), answer_context.transfer_syntax)


def is_pending(status: int) -> bool:
    """Whether more responses follow (PS3.7 annex C.1)."""
    return status in (0xFF00, 0xFF01)


def _status(answer: Command) -> int:
    if answer.Status is None:
        raise ProtocolViolation("a response without a status")
    return answer.Status


def check_final(assoc: Association, answer: Command) -> None:
    """PeerUnavailable with the status, unless it is success."""
    if _status(answer) != 0:
        reason = f": {answer.ErrorComment}" if answer.ErrorComment else ""
        raise PeerUnavailable(f"{assoc.agreement.called_ae} answered with status {answer.Status:04X}{reason}")
