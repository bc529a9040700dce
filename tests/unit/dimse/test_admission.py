"""How many may be connected."""

import pytest

from pacs_core.dimse.admission import Admission, Refused


def test_an_address_has_its_share_and_others_have_theirs() -> None:
    admission = Admission(associations=1, per_address=2)
    for _ in range(2):
        admission.enter("192.0.2.1")
    with pytest.raises(Refused, match="from this address"):
        admission.enter("192.0.2.1")
    admission.enter("192.0.2.2")
    admission.leave("192.0.2.1")
    admission.enter("192.0.2.1")


def test_two_addresses_with_all_they_may_have_leave_room_for_as_many_as_may_be_associated() -> None:
    admission = Admission(associations=3, per_address=5)
    for number in range(10):
        admission.enter(f"192.0.2.{number % 2}")
    for number in range(3):
        admission.enter(f"198.51.100.{number}")
    with pytest.raises(Refused, match="13 connections"):
        admission.enter("203.0.113.1")


def test_an_association_too_many_is_refused_until_one_has_ended() -> None:
    admission = Admission(associations=1, per_address=5)
    admission.associate()
    with pytest.raises(Refused, match="1 associations"):
        admission.associate()
    admission.dissociate()
    admission.associate()
