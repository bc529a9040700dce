"""What a forward says about its outcome."""

from flows.forward import Forwarded
from pacs_core.dimse.forwarding import Followed


def test_a_rule_that_took_several_steps_is_one_and_what_is_only_delayed_is_nothing_to_see_to() -> None:
    steps = [Followed("a", "PEER", entered=5, sent=3, is_left=True), Followed("a", "PEER", sent=2)]
    assert Forwarded.of(steps, 0).sentence == "5 instances sent by 1 rules, 5 new"
    delayed = Forwarded.of([*steps, Followed("b", "AWAY", failed=1, reason="away")], 0)
    assert delayed.sentence.endswith("; 1 could not be sent and are tried again; 1 rules have to wait")
    assert delayed.is_whole


def test_what_is_given_up_wrong_or_broken_is_for_a_person_to_see_to() -> None:
    assert not Forwarded.of([Followed("a", "PEER", given_up=1)], 0).is_whole
    assert not Forwarded.of([Followed("a", "PEER", reason="no such column", is_wrong=True)], 0).is_whole
    assert not Forwarded.of([], 1).is_whole
