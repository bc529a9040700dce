"""What pynetdicom says of users and related SOP classes is understood, and what nobody should say harms nothing."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation, UserIdentityNegotiation

from pacs_core.dimse import negotiation
from pacs_core.dimse.negotiation import Acceptance, Proposal
from pacs_core.dimse.requestor import IdentityType, UserIdentity, related_general_classes, user_identity

CT, OURS = "1.2.840.10008.5.1.4.1.1.2", "1.2.826.0.1.3680043.9.1"
IMPLICIT = "1.2.840.10008.1.2"
POLICY = Acceptance(
    supports=lambda uid: frozenset({IMPLICIT}) if uid == CT else frozenset(),
    peer_may_be_scp=lambda _: False,
    extended=lambda *_: None,
    called_ae="",
)


def with_user_items(*items: bytes, abstract_syntax: str = CT) -> bytes:
    """A request whose user information, its last item, has more in it."""
    pdu = negotiation.request("SCU", "PACS", [Proposal(abstract_syntax, (IMPLICIT,))])
    rest, extra = pdu[6:], b"".join(items)
    at = rest.rindex(b"\x50\x00")
    (length,) = struct.unpack_from(">H", rest, at + 2)
    assert at + 4 + length == len(rest)
    rest = rest[: at + 2] + struct.pack(">H", length + len(extra)) + rest[at + 4 :] + extra
    return pdu[:2] + struct.pack(">L", len(rest)) + rest


def identity_item(kind: int, primary: bytes, secondary: bytes = b"", *, answer: bool = False) -> bytes:
    item = UserIdentityNegotiation()
    item.user_identity_type, item.primary_field, item.positive_response_requested = kind, primary, answer
    item.secondary_field = secondary
    return item.from_primitive().encode()


def related_item(sop_class: str, *related: str) -> bytes:
    item = SOPClassCommonExtendedNegotiation()
    item.sop_class_uid, item.service_class_uid = UID(sop_class), UID("1.2.840.10008.4.2")
    item.related_general_sop_class_identification = [UID(each) for each in related]
    return item.from_primitive().encode()


@pytest.mark.parametrize(
    ("item", "identity"),
    [
        (identity_item(1, "jürgen".encode()), UserIdentity(IdentityType.USERNAME, "jürgen", answer_wanted=False)),
        (identity_item(2, b"eve", b"secret", answer=True), UserIdentity(IdentityType.USERNAME_AND_PASSCODE, "eve", answer_wanted=True)),
        (identity_item(3, b"\x60\x82ticket"), UserIdentity(IdentityType.KERBEROS, "", answer_wanted=False)),
        (identity_item(4, b"<saml/>"), UserIdentity(IdentityType.SAML, "", answer_wanted=False)),
    ],
)
def test_a_user_is_named_as_pynetdicom_names_it_and_secrets_are_not_kept(item: bytes, identity: UserIdentity) -> None:
    answer, agreement = negotiation.accept(with_user_items(item), POLICY)
    assert agreement.user == identity
    assert "secret" not in repr(agreement)
    pdu = A_ASSOCIATE_AC()
    pdu.decode(answer)
    assert pdu.user_information is not None
    assert (pdu.user_information.user_identity is not None) == identity.answer_wanted


def test_control_characters_do_not_reach_the_log() -> None:
    identity = user_identity(with_user_items(identity_item(1, b"a\nb\x1b[2J" + b"x" * 200)))
    assert identity is not None
    assert identity.name == "a?b?[2J" + "x" * 57


def test_a_private_class_is_served_as_the_general_one_that_it_names() -> None:
    request = with_user_items(related_item(OURS, "1.2.3.4", CT), abstract_syntax=OURS)
    assert related_general_classes(request) == {OURS: ("1.2.3.4", CT)}
    _, agreement = negotiation.accept(request, POLICY)
    (context,) = agreement.contexts.values()
    assert (context.abstract_syntax, context.served_as) == (OURS, CT)


def test_a_private_class_that_names_nothing_we_know_is_not_accepted() -> None:
    for items in ([], [related_item(OURS, "1.2.3.4")], [related_item("1.2.3", CT)]):
        _, agreement = negotiation.accept(with_user_items(*items, abstract_syntax=OURS), POLICY)
        assert not agreement.contexts


@given(st.sampled_from([0x57, 0x58]), st.binary(max_size=80))
def test_what_is_malformed_is_passed_over(kind: int, content: bytes) -> None:
    _, agreement = negotiation.accept(with_user_items(struct.pack(">BxH", kind, len(content)) + content), POLICY)
    assert [context.served_as for context in agreement.contexts.values()] == [CT]


def test_pynetdicom_reads_the_requests_of_this_test() -> None:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(with_user_items(identity_item(1, b"eve"), related_item(OURS, CT)))
    assert pdu.user_information is not None
    assert pdu.user_information.user_identity is not None
    assert len(pdu.user_information.common_ext_neg) == 1
