"""What is offered and what is accepted when an association opens (PS3.8 7.1 and 9.3.2-4, PS3.7 annex D.3.3).

Pure: PDU bytes and policies in, PDU bytes and agreements out. The PDU codec is pynetdicom's.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TypeVar

from pydicom.uid import UID as PydicomUID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_items import PresentationContextItemRQ, UserInformationItem
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context

from pacs_core.dicom.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_core.dimse.connection import MAXIMUM_LENGTH, ProtocolViolation
from pacs_core.dimse.request_form import MAXIMUM_CONTEXTS, normalised, with_reserved_fields_of
from pacs_core.dimse.requestor import UserIdentity, related_general_classes, user_identity

_PDU = TypeVar("_PDU", A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ)

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
LITTLE_ENDIAN = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)  # what is proposed where nothing else is asked for

_REMEMBERED, _LONGEST_REMEMBERED = 64, 32_768  # requests, and bytes of each

_ACCEPTED, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAX = 0, 3, 4


class Rejection(Enum):
    """A-ASSOCIATE-RJ result, source and reason (PS3.8 table 9-21)."""

    APPLICATION_CONTEXT_NOT_SUPPORTED = (1, 1, 2)
    CALLING_AE_NOT_RECOGNISED = (1, 1, 3)
    CALLED_AE_NOT_RECOGNISED = (1, 1, 7)
    PROTOCOL_VERSION_NOT_SUPPORTED = (1, 2, 2)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
    TEMPORARY_CONGESTION = (2, 3, 1)

    def encode(self) -> bytes:
        """The PDU."""
        return struct.pack(">BxLxBBB", 3, 4, *self.value)


class NotAccepted(Exception):
    """An association request that is answered with an A-ASSOCIATE-RJ."""

    def __init__(self, rejection: Rejection, message: str) -> None:
        super().__init__(message)
        self.rejection = rejection


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context, seen from our side.

    Attributes:
        served_as: the SOP class whose service serves it: the abstract syntax, or the general one that the requestor has named for it.
    """

    id: int
    abstract_syntax: str
    transfer_syntax: str
    as_scu: bool
    as_scp: bool
    served_as: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides of an open association agreed upon."""

    calling_ae: str
    called_ae: str
    contexts: Mapping[int, Context]
    peer_maximum: int  # bytes of a P-DATA-TF that the peer takes; 0 for any
    extended: Mapping[str, bytes]  # SOP class to accepted application information (PS3.7 D.3.3.5)
    peer_implementation: str = ""
    user: UserIdentity | None = None

    def context_for(self, abstract_syntax: str, *, transfer_syntax: str | None = None, scu: bool = True) -> Context | None:
        """A context in which we may act as SCU (or SCP) of a SOP class, or None."""
        for context in self.contexts.values():
            role = context.as_scu if scu else context.as_scp
            if role and context.abstract_syntax == abstract_syntax and transfer_syntax in (None, context.transfer_syntax):
                return context
        return None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What an acceptor supports.

    Attributes:
        supports: for an abstract syntax, the transfer syntaxes that are accepted for it; empty if it is not supported.
        peer_may_be_scp: whether the requestor may take the SCP role of an abstract syntax (PS3.7 D.3.3.4).
        extended: answers an extended negotiation item: SOP class and proposed information to accepted information.
        called_ae: our AE title; another called AE title is rejected. "" takes any.
    """

    supports: Callable[[str], frozenset[str]]
    peer_may_be_scp: Callable[[str], bool]
    extended: Callable[[str, bytes], bytes | None]
    called_ae: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """One presentation context that a requestor proposes."""

    abstract_syntax: str
    transfer_syntaxes: Sequence[str]
    scp_role: bool = False  # we want to be its SCP, as in C-GET


def accept(request: bytes, policy: Acceptance) -> tuple[bytes, Agreement]:
    """Answer an A-ASSOCIATE-RQ: the A-ASSOCIATE-AC to send and what it agrees upon.

    Of the proposed transfer syntaxes the first that we support is taken: a sender lists first what it holds.

    Raises:
        NotAccepted: it is to be answered with a rejection.
        ProtocolViolation: the PDU is malformed.
    """
    pdu = _decode(A_ASSOCIATE_RQ(), normalised(request))
    if not pdu.protocol_version & 1:
        raise NotAccepted(Rejection.PROTOCOL_VERSION_NOT_SUPPORTED, f"protocol version {pdu.protocol_version}")
    if pdu.application_context_name != APPLICATION_CONTEXT:
        raise NotAccepted(Rejection.APPLICATION_CONTEXT_NOT_SUPPORTED, f"application context {pdu.application_context_name}")
    if policy.called_ae and pdu.called_ae_title.strip() != policy.called_ae:
        raise NotAccepted(Rejection.CALLED_AE_NOT_RECOGNISED, f"called AE title {pdu.called_ae_title.strip()!r} is not ours")
    served = _served(pdu, related_general_classes(request), policy)
    results = [_answer(item, served[str(item.abstract_syntax)].transfer_syntaxes) for item in pdu.presentation_context]
    granted = _grant_roles(_proposed_roles(pdu), results, policy)
    extended = _answer_extended(pdu, policy)
    answer = _primitive(pdu.calling_ae_title, pdu.called_ae_title)
    answer.result = 0
    answer.presentation_context_definition_results_list = results
    answer.user_information += [*(_role(uid, *role) for uid, role in granted.items()), *(_extended(*item) for item in extended.items())]
    user = user_identity(request)
    if user and user.answer_wanted:
        answer.user_information.append(_identity_accepted())
    contexts = _contexts(results, granted, {uid: each.sop_class for uid, each in served.items()}, acceptor=True)
    return with_reserved_fields_of(A_ASSOCIATE_AC(answer).encode(), request), _agreement(pdu, contexts, extended, user)


class Acceptor:
    """Answers association requests by one policy. Thread-safe.

    It remembers its latest answers: a client asks for the same each time, and taking a request of a hundred contexts apart costs
    more than an instance. What is unusually long is not worth the memory.

    Args:
        policy: what is supported; it never changes.
    """

    def __init__(self, policy: Acceptance) -> None:
        self._policy = policy
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._accept)

    def accept(self, request: bytes) -> tuple[bytes, Agreement]:
        """As the function `accept`."""
        return self._remembered(request) if len(request) <= _LONGEST_REMEMBERED else self._accept(request)

    def _accept(self, request: bytes) -> tuple[bytes, Agreement]:
        return accept(request, self._policy)


def request(calling_ae: str, called_ae: str, proposals: Sequence[Proposal], *, extended: Mapping[str, bytes] | None = None) -> bytes:
    """The A-ASSOCIATE-RQ of a requestor. At most 128 proposals (PS3.8 9.3.2.2: odd identifiers from 1 to 255)."""
    if len(proposals) > MAXIMUM_CONTEXTS:
        raise ValueError(f"{len(proposals)} presentation contexts; an association has at most {MAXIMUM_CONTEXTS}")
    primitive = _primitive(calling_ae, called_ae)
    primitive.presentation_context_definition_list = [_propose(2 * i + 1, p) for i, p in enumerate(proposals)]
    primitive.user_information += [_role(uid, False, True) for uid in sorted({p.abstract_syntax for p in proposals if p.scp_role})]
    primitive.user_information += [_extended(*item) for item in (extended or {}).items()]
    return A_ASSOCIATE_RQ(primitive).encode()


def conclude(answer: bytes, proposals: Sequence[Proposal]) -> Agreement:
    """What an A-ASSOCIATE-AC agrees to of a request's proposals."""
    pdu = _decode(A_ASSOCIATE_AC(), answer)
    accepted = []
    for item in pdu.presentation_context:
        index, even = divmod((item.presentation_context_id or 0) - 1, 2)
        if item.result != _ACCEPTED:
            continue
        if even or not 0 <= index < len(proposals) or item.transfer_syntax not in proposals[index].transfer_syntaxes:
            raise ProtocolViolation("the peer accepted a presentation context that was not proposed")
        context = build_context(proposals[index].abstract_syntax, item.transfer_syntax)
        context.context_id, context.result = item.presentation_context_id, _ACCEPTED
        accepted.append(context)
    return _agreement(pdu, _contexts(accepted, _proposed_roles(pdu), {}, acceptor=False), _proposed_extensions(pdu))


def rejection_text(answer: bytes) -> str:
    """An A-ASSOCIATE-RJ in words."""
    pdu = _decode(A_ASSOCIATE_RJ(), answer)
    try:
        return f"{pdu.result_str}, {pdu.source_str}: {pdu.reason_str}"
    except ValueError:  # reserved values
        return f"result {pdu.result}, source {pdu.source}, reason {pdu.reason_diagnostic}"


def _decode(pdu: _PDU, data: bytes) -> _PDU:
    try:
        pdu.decode(data)
        if not isinstance(pdu, A_ASSOCIATE_RJ) and pdu.user_information is None:
            raise ValueError("no user information item")
    except Exception as exc:  # pynetdicom's codec raises whatever a malformed item leads to
        raise ProtocolViolation(f"an association PDU is malformed: {exc}") from exc
    return pdu


def _user_information(pdu: A_ASSOCIATE_RQ | A_ASSOCIATE_AC) -> UserInformationItem:
    item = pdu.user_information
    assert item is not None, "checked when the PDU was decoded"
    return item


def _proposed_roles(pdu: A_ASSOCIATE_RQ | A_ASSOCIATE_AC) -> dict[str, tuple[bool, bool]]:
    items = _user_information(pdu).role_selection.items()
    return {str(uid): (bool(item.scu_role), bool(item.scp_role)) for uid, item in items}


def _proposed_extensions(pdu: A_ASSOCIATE_RQ | A_ASSOCIATE_AC) -> dict[str, bytes]:
    return {str(item.uid): bytes(item.app_info or b"") for item in _user_information(pdu).ext_neg}


@dataclass(frozen=True, slots=True)
class _Served:
    """As which SOP class an abstract syntax is served, and in what it may be sent: in nothing if it is not."""

    sop_class: str
    transfer_syntaxes: frozenset[str]


def _served(pdu: A_ASSOCIATE_RQ, related: Mapping[str, tuple[str, ...]], policy: Acceptance) -> Mapping[str, _Served]:
    """What each proposed abstract syntax is served as: itself, or the first general SOP class of it that we support."""
    served = {}
    for uid in {str(item.abstract_syntax) for item in pdu.presentation_context}:
        candidates = (_Served(each, policy.supports(each)) for each in (uid, *related.get(uid, ())))
        served[uid] = next((each for each in candidates if each.transfer_syntaxes), _Served(uid, frozenset()))
    return served


def _answer(item: PresentationContextItemRQ, supported: frozenset[str]) -> PresentationContext:
    abstract_syntax = str(item.abstract_syntax)
    proposed = [str(uid) for uid in item.transfer_syntax]
    chosen = next((uid for uid in proposed if uid in supported), None)
    result = PresentationContext()
    result.context_id = item.presentation_context_id
    result.abstract_syntax = PydicomUID(abstract_syntax)
    # A refused context carries a transfer syntax that is not to be tested (PS3.8 9.3.3.2).
    result.transfer_syntax = [PydicomUID(chosen or (proposed or [IMPLICIT_VR_LITTLE_ENDIAN])[0])]
    result.result = _ACCEPTED if chosen else _NO_TRANSFER_SYNTAX if supported else _NO_ABSTRACT_SYNTAX
    return result


def _grant_roles(
    proposed: Mapping[str, tuple[bool, bool]], results: Sequence[PresentationContext], policy: Acceptance
) -> dict[str, tuple[bool, bool]]:
    """The roles that the requestor may take, of those that it proposed (PS3.7 table D.3-9).

    One that is left out keeps the default: the requestor is SCU.
    """
    accepted = {str(r.abstract_syntax) for r in results if r.result == _ACCEPTED}
    granted = {uid: (scu, scp and policy.peer_may_be_scp(uid)) for uid, (scu, scp) in proposed.items() if uid in accepted}
    return {uid: roles for uid, roles in granted.items() if any(roles)}


def _answer_extended(pdu: A_ASSOCIATE_RQ, policy: Acceptance) -> dict[str, bytes]:
    answers = ((uid, policy.extended(uid, information)) for uid, information in _proposed_extensions(pdu).items())
    return {uid: answer for uid, answer in answers if answer is not None}


def _contexts(
    results: Iterable[PresentationContext], roles: Mapping[str, tuple[bool, bool]], served: Mapping[str, str], *, acceptor: bool
) -> dict[int, Context]:
    """Our contexts with our roles. Without role selection the requestor is SCU and the acceptor SCP."""
    contexts = {}
    for item in results:
        if item.result == _ACCEPTED and item.context_id is not None:
            abstract_syntax = str(item.abstract_syntax)
            requestor_scu, requestor_scp = roles.get(abstract_syntax, (True, False))
            as_scu, as_scp = (requestor_scp, requestor_scu) if acceptor else (requestor_scu, requestor_scp)
            served_as = served.get(abstract_syntax, abstract_syntax)
            contexts[item.context_id] = Context(item.context_id, abstract_syntax, str(item.transfer_syntax[0]), as_scu, as_scp, served_as)
    return contexts


def _agreement(
    pdu: A_ASSOCIATE_RQ | A_ASSOCIATE_AC,
    contexts: Mapping[int, Context],
    extended: Mapping[str, bytes],
    user: UserIdentity | None = None,
) -> Agreement:
    return Agreement(
        calling_ae=pdu.calling_ae_title.strip(),
        called_ae=pdu.called_ae_title.strip(),
        contexts=contexts,
        peer_maximum=_user_information(pdu).maximum_length or 0,
        extended=extended,
        peer_implementation=_user_information(pdu).implementation_version_name or "",
        user=user,
    )


def _primitive(calling_ae: str, called_ae: str) -> A_ASSOCIATE:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = PydicomUID(APPLICATION_CONTEXT)
    primitive.calling_ae_title = calling_ae
    primitive.called_ae_title = called_ae
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = MAXIMUM_LENGTH
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = PydicomUID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive.user_information = [maximum, implementation, version]
    return primitive


def _propose(context_id: int, proposal: Proposal) -> PresentationContext:
    context = build_context(proposal.abstract_syntax, list(proposal.transfer_syntaxes))
    context.context_id = context_id
    return context


def _role(uid: str, scu: bool, scp: bool) -> SCP_SCU_RoleSelectionNegotiation:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid = PydicomUID(uid)
    item.scu_role, item.scp_role = scu, scp
    return item


def _identity_accepted() -> UserIdentityNegotiation:
    """Without a response of its own: a ticket or an assertion is not ours to check yet (PS3.7 D.3.3.7.2)."""
    item = UserIdentityNegotiation()
    item.server_response = b""
    return item


def _extended(uid: str, information: bytes) -> SOPClassExtendedNegotiation:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = PydicomUID(uid)
    item.service_class_application_information = information
    return item
