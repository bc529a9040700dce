"""The state machine against pynetdicom's transcription of PS3.8 table 9-10, and along whole lives of associations."""

import pytest
from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE

from pacs_core.dimse.upper_layer import TABLE, Action, Event, State, UpperLayer

CALL = [Event.ASSOCIATE_REQUEST, Event.TRANSPORT_CONFIRMED]


def test_every_cell_of_the_table_is_the_standards() -> None:
    ours = {(f"Evt{event.value}", f"Sta{state.value}"): action.value for (event, state), action in TABLE.items()}
    assert ours == TRANSITION_TABLE


@pytest.mark.parametrize("requestor", [True, False])
@pytest.mark.parametrize(("event", "state"), TABLE)
def test_every_action_leads_to_the_state_that_the_standard_names(event: Event, state: State, requestor: bool) -> None:
    machine = UpperLayer(requestor=requestor)
    machine.state = state
    action = machine.on(event)
    stated = ACTIONS[action.value][2]
    # Where the Standard names two states, one is of a rejection (a REJECT of its own here), or the role decides.
    chosen = {Action.INDICATE_REQUEST: "Sta3", Action.INDICATE_RELEASE_COLLISION: "Sta9" if requestor else "Sta10"}
    expected = stated if isinstance(stated, str) else chosen[action]
    assert expected in stated
    assert f"Sta{machine.state.value}" == expected


@pytest.mark.parametrize(
    ("requestor", "events", "end"),
    [
        (False, [Event.TRANSPORT_INDICATED, Event.ASSOCIATE_RQ_PDU, Event.ACCEPT, Event.DATA_PDU, Event.DATA_REQUEST], State.ESTABLISHED),
        (False, [Event.TRANSPORT_INDICATED, Event.ASSOCIATE_RQ_PDU, Event.REJECT, Event.TRANSPORT_CLOSED], State.IDLE),
        (False, [Event.TRANSPORT_INDICATED, Event.TIMER_EXPIRED], State.IDLE),
        (
            True,
            [Event.ASSOCIATE_REQUEST, Event.TRANSPORT_CONFIRMED, Event.ASSOCIATE_AC_PDU, Event.RELEASE_REQUEST, Event.RELEASE_RP_PDU],
            State.IDLE,
        ),
        (True, [Event.ASSOCIATE_REQUEST, Event.TRANSPORT_CONFIRMED, Event.ASSOCIATE_RJ_PDU], State.IDLE),
    ],
)
def test_lives_of_associations(requestor: bool, events: list[Event], end: State) -> None:
    machine = UpperLayer(requestor=requestor)
    for event in events:
        machine.on(event)
    assert machine.state is end


def test_both_sides_releasing_at_once_come_to_an_end() -> None:
    requestor, acceptor = UpperLayer(requestor=True), UpperLayer(requestor=False)
    for machine in (requestor, acceptor):
        machine.state = State.ESTABLISHED
        machine.on(Event.RELEASE_REQUEST)
        assert machine.on(Event.RELEASE_RQ_PDU) is Action.INDICATE_RELEASE_COLLISION
    assert requestor.on(Event.RELEASE_RESPONSE) is Action.SEND_RELEASE_RP_IN_COLLISION
    assert acceptor.on(Event.RELEASE_RP_PDU) is Action.CONFIRM_RELEASE_IN_COLLISION
    assert acceptor.on(Event.RELEASE_RESPONSE) is Action.SEND_RELEASE_RP
    assert requestor.on(Event.RELEASE_RP_PDU) is Action.CONFIRM_RELEASE_AND_CLOSE
    assert acceptor.on(Event.TRANSPORT_CLOSED) is Action.STOP_TIMER
    assert requestor.state is acceptor.state is State.IDLE


def test_a_wish_that_the_state_does_not_allow_is_our_own_mistake() -> None:
    with pytest.raises(KeyError):
        UpperLayer(requestor=False).on(Event.DATA_REQUEST)
