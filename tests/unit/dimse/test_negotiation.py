"""Association requests as real peers write them, and as hostile ones do (PS3.8 9.3.2)."""

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.dimse import negotiation
from pacs_core.dimse.connection import ProtocolViolation
from pacs_core.dimse.negotiation import Acceptance, Acceptor, NotAccepted, Proposal

CT, UNKNOWN = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
POLICY = Acceptance(
    supports=lambda uid: frozenset({IMPLICIT, EXPLICIT}) if uid == CT else frozenset(),
    peer_may_be_scp=lambda uid: uid == CT,
    extended=lambda _, information: information[:1],
    called_ae="PACS",
)


def requested(*proposals: Proposal, called: str = "PACS") -> bytes:
    return negotiation.request("SCU", called, proposals or [Proposal(CT, (EXPLICIT, IMPLICIT))])


def with_items(pdu: bytes, extra: bytes) -> bytes:
    return pdu[:2] + struct.pack(">L", len(pdu) + len(extra) - 6) + pdu[6:] + extra


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def test_the_first_proposed_syntax_that_is_supported_is_taken_and_both_sides_agree() -> None:
    proposals = [Proposal(CT, ("1.2.840.10008.1.2.4.70", IMPLICIT, EXPLICIT)), Proposal(UNKNOWN, (IMPLICIT,))]
    answer, ours = negotiation.accept(requested(*proposals), POLICY)
    theirs = negotiation.conclude(answer, proposals)
    assert {c.id: (c.abstract_syntax, c.transfer_syntax, c.as_scp) for c in ours.contexts.values()} == {1: (CT, IMPLICIT, True)}
    assert {c.id: (c.abstract_syntax, c.transfer_syntax, c.as_scu) for c in theirs.contexts.values()} == {1: (CT, IMPLICIT, True)}


def test_the_scp_role_is_granted_where_the_policy_allows_it() -> None:
    proposals = [Proposal(CT, (IMPLICIT,), scp_role=True)]
    answer, ours = negotiation.accept(requested(*proposals), POLICY)
    assert ours.context_for(CT, scu=True) is not None
    assert negotiation.conclude(answer, proposals).context_for(CT, scu=False) is not None


@pytest.mark.parametrize(
    ("field", "value", "calling"),
    [
        (slice(10, 26), b"PACS".ljust(16, b"\0"), "SCU"),
        (slice(26, 42), b"STATION\0\0\0\0\0\0\0\0\0", "STATION"),
        (slice(26, 42), b" " * 16, "-"),
        (slice(26, 42), b"M\xfcLLER".ljust(16), "M?LLER"),
    ],
)
def test_ae_titles_are_taken_as_people_write_them_and_repeated_as_they_came(field: slice, value: bytes, calling: str) -> None:
    pdu = bytearray(requested())
    pdu[field] = value
    answer, agreement = negotiation.accept(bytes(pdu), POLICY)
    assert agreement.calling_ae == calling
    assert answer[10:74] == pdu[10:74]


def test_items_that_are_unknown_are_ignored() -> None:
    _, agreement = negotiation.accept(with_items(requested(), item(0x7F, b"later edition")), POLICY)
    assert agreement.contexts


def test_a_uid_that_is_too_long_costs_its_own_context_only() -> None:
    context = bytes((3, 0, 0, 0)) + item(0x30, b"1." * 40) + item(0x40, IMPLICIT.encode())
    answer, agreement = negotiation.accept(with_items(requested(), item(0x20, context)), POLICY)
    assert list(agreement.contexts) == [1]
    assert answer


def test_a_context_without_an_abstract_syntax_is_refused_alone() -> None:
    context = bytes((3, 0, 0, 0)) + item(0x40, IMPLICIT.encode())
    answer, agreement = negotiation.accept(with_items(requested(), item(0x20, context)), POLICY)
    assert list(agreement.contexts) == [1]
    assert answer


@pytest.mark.parametrize("context_id", [0, 2, 1])
def test_even_and_repeated_context_identifiers_are_violations(context_id: int) -> None:
    context = bytes((context_id, 0, 0, 0)) + item(0x30, CT.encode()) + item(0x40, IMPLICIT.encode())
    with pytest.raises(ProtocolViolation):
        negotiation.accept(with_items(requested(), item(0x20, context)), POLICY)


def test_too_many_transfer_syntaxes_are_refused_before_they_cost_anything() -> None:
    context = bytes((3, 0, 0, 0)) + item(0x30, CT.encode()) + item(0x40, b"1.2") * 5000
    with pytest.raises(ProtocolViolation):
        negotiation.accept(with_items(requested(), item(0x20, context)), POLICY)


def test_another_called_title_is_rejected() -> None:
    with pytest.raises(NotAccepted, match="not ours"):
        negotiation.accept(requested(called="OTHER"), POLICY)


def test_a_request_that_was_answered_before_is_answered_alike_without_being_taken_apart() -> None:
    asked: list[str] = []

    def supports(uid: str) -> frozenset[str]:
        asked.append(uid)
        return POLICY.supports(uid)

    acceptor = Acceptor(dataclasses.replace(POLICY, supports=supports))
    assert acceptor.accept(requested()) == acceptor.accept(requested()) == negotiation.accept(requested(), POLICY)
    assert len(asked) == 1
    with pytest.raises(NotAccepted):
        acceptor.accept(requested(called="OTHER"))
    assert acceptor.accept(requested(Proposal(CT, (IMPLICIT,)))) == negotiation.accept(requested(Proposal(CT, (IMPLICIT,))), POLICY)


@given(st.data())
def test_a_request_with_bytes_changed_is_accepted_rejected_or_a_violation(data: st.DataObject) -> None:
    pdu = bytearray(requested())
    for _ in range(data.draw(st.integers(1, 8))):
        pdu[data.draw(st.integers(6, len(pdu) - 1))] = data.draw(st.integers(0, 255))
    try:
        answer, _ = negotiation.accept(bytes(pdu), POLICY)
    except (NotAccepted, ProtocolViolation):
        return
    assert answer[0] == 2


@pytest.mark.parametrize("values", [(1, 1, 1), (1, 1, 0), (3, 3, 3), (1, 2, 9)])
def test_any_rejection_can_be_put_into_words(values: tuple[int, int, int]) -> None:
    assert negotiation.rejection_text(struct.pack(">BxLxBBB", 3, 4, *values))


def test_an_acceptance_of_what_was_not_proposed_is_a_violation() -> None:
    answer, _ = negotiation.accept(requested(Proposal(CT, (EXPLICIT,))), POLICY)
    with pytest.raises(ProtocolViolation):
        negotiation.conclude(answer, [Proposal(CT, (IMPLICIT,))])
