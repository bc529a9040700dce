"""The state machine of the DICOM upper layer (PS3.8 9.2, table 9-10). Pure: events in, actions out, no I/O.

The names are the Standard's meaning, the numbers and codes are the Standard's own. An action that tells the peer or the
user something is carried out by the shell around the machine (`connection`).
"""

from collections.abc import Mapping
from enum import Enum, IntEnum


class State(IntEnum):
    """Sta1 to Sta13 (PS3.8 tables 9-1 to 9-5)."""

    IDLE = 1
    AWAITING_REQUEST = 2
    AWAITING_LOCAL_ANSWER = 3
    CONNECTING = 4
    AWAITING_ANSWER = 5
    ESTABLISHED = 6
    AWAITING_RELEASE = 7
    AWAITING_LOCAL_RELEASE = 8
    COLLISION_REQUESTOR_LOCAL = 9
    COLLISION_ACCEPTOR_REMOTE = 10
    COLLISION_REQUESTOR_REMOTE = 11
    COLLISION_ACCEPTOR_LOCAL = 12
    AWAITING_CLOSE = 13


class Event(IntEnum):
    """Evt1 to Evt19 (PS3.8 table 9-10). A PDU stands for its arrival, a primitive for the local user's wish."""

    ASSOCIATE_REQUEST = 1
    TRANSPORT_CONFIRMED = 2
    ASSOCIATE_AC_PDU = 3
    ASSOCIATE_RJ_PDU = 4
    TRANSPORT_INDICATED = 5
    ASSOCIATE_RQ_PDU = 6
    ACCEPT = 7
    REJECT = 8
    DATA_REQUEST = 9
    DATA_PDU = 10
    RELEASE_REQUEST = 11
    RELEASE_RQ_PDU = 12
    RELEASE_RP_PDU = 13
    RELEASE_RESPONSE = 14
    ABORT_REQUEST = 15
    ABORT_PDU = 16
    TRANSPORT_CLOSED = 17
    TIMER_EXPIRED = 18
    INVALID_PDU = 19


class Action(Enum):
    """What is to be done (PS3.8 tables 9-6 to 9-9)."""

    CONNECT = "AE-1"
    SEND_ASSOCIATE_RQ = "AE-2"
    CONFIRM_ACCEPTANCE = "AE-3"
    CONFIRM_REJECTION = "AE-4"
    START_TIMER = "AE-5"
    INDICATE_REQUEST = "AE-6"
    SEND_ASSOCIATE_AC = "AE-7"
    SEND_ASSOCIATE_RJ = "AE-8"
    SEND_DATA = "DT-1"
    INDICATE_DATA = "DT-2"
    SEND_RELEASE_RQ = "AR-1"
    INDICATE_RELEASE = "AR-2"
    CONFIRM_RELEASE_AND_CLOSE = "AR-3"
    SEND_RELEASE_RP = "AR-4"
    STOP_TIMER = "AR-5"
    INDICATE_DATA_WHILE_RELEASING = "AR-6"
    SEND_DATA_WHILE_RELEASING = "AR-7"
    INDICATE_RELEASE_COLLISION = "AR-8"
    SEND_RELEASE_RP_IN_COLLISION = "AR-9"
    CONFIRM_RELEASE_IN_COLLISION = "AR-10"
    ABORT_AS_USER = "AA-1"
    CLOSE = "AA-2"
    INDICATE_ABORT = "AA-3"
    INDICATE_LOSS = "AA-4"
    FORGET = "AA-5"
    IGNORE = "AA-6"
    ABORT_AGAIN = "AA-7"
    ABORT_AS_PROVIDER = "AA-8"


_NEXT: Mapping[Action, State] = {
    Action.CONNECT: State.CONNECTING,
    Action.SEND_ASSOCIATE_RQ: State.AWAITING_ANSWER,
    Action.CONFIRM_ACCEPTANCE: State.ESTABLISHED,
    Action.CONFIRM_REJECTION: State.IDLE,
    Action.START_TIMER: State.AWAITING_REQUEST,
    Action.INDICATE_REQUEST: State.AWAITING_LOCAL_ANSWER,
    Action.SEND_ASSOCIATE_AC: State.ESTABLISHED,
    Action.SEND_ASSOCIATE_RJ: State.AWAITING_CLOSE,
    Action.SEND_DATA: State.ESTABLISHED,
    Action.INDICATE_DATA: State.ESTABLISHED,
    Action.SEND_RELEASE_RQ: State.AWAITING_RELEASE,
    Action.INDICATE_RELEASE: State.AWAITING_LOCAL_RELEASE,
    Action.CONFIRM_RELEASE_AND_CLOSE: State.IDLE,
    Action.SEND_RELEASE_RP: State.AWAITING_CLOSE,
    Action.STOP_TIMER: State.IDLE,
    Action.INDICATE_DATA_WHILE_RELEASING: State.AWAITING_RELEASE,
    Action.SEND_DATA_WHILE_RELEASING: State.AWAITING_LOCAL_RELEASE,
    # Of an acceptor; a requestor goes to COLLISION_REQUESTOR_LOCAL.
    Action.INDICATE_RELEASE_COLLISION: State.COLLISION_ACCEPTOR_REMOTE,
    Action.SEND_RELEASE_RP_IN_COLLISION: State.COLLISION_REQUESTOR_REMOTE,
    Action.CONFIRM_RELEASE_IN_COLLISION: State.COLLISION_ACCEPTOR_LOCAL,
    Action.ABORT_AS_USER: State.AWAITING_CLOSE,
    Action.CLOSE: State.IDLE,
    Action.INDICATE_ABORT: State.IDLE,
    Action.INDICATE_LOSS: State.IDLE,
    Action.FORGET: State.IDLE,
    Action.IGNORE: State.AWAITING_CLOSE,
    Action.ABORT_AGAIN: State.AWAITING_CLOSE,
    Action.ABORT_AS_PROVIDER: State.AWAITING_CLOSE,
}

# The states in which both sides know of the association, one way or another.
_ASSOCIATED = (State.AWAITING_LOCAL_ANSWER, *(State(number) for number in range(State.AWAITING_ANSWER, State.AWAITING_CLOSE)))


def _row(event: Event, fresh: Action, associated: Action, closing: Action, **special: Action) -> dict[tuple[Event, State], Action]:
    """The reactions to a PDU: before a request, during an association, while waiting for the close; and the exceptions."""
    row = {(event, State.AWAITING_REQUEST): fresh, (event, State.AWAITING_CLOSE): closing}
    row |= {(event, state): associated for state in _ASSOCIATED}
    return row | {(event, State[name]): action for name, action in special.items()}


def _unexpected(event: Event, **special: Action) -> dict[tuple[Event, State], Action]:
    return _row(event, Action.ABORT_AS_USER, Action.ABORT_AS_PROVIDER, Action.IGNORE, **special)


TABLE: Mapping[tuple[Event, State], Action] = {
    (Event.ASSOCIATE_REQUEST, State.IDLE): Action.CONNECT,
    (Event.TRANSPORT_CONFIRMED, State.CONNECTING): Action.SEND_ASSOCIATE_RQ,
    **_unexpected(Event.ASSOCIATE_AC_PDU, AWAITING_ANSWER=Action.CONFIRM_ACCEPTANCE),
    **_unexpected(Event.ASSOCIATE_RJ_PDU, AWAITING_ANSWER=Action.CONFIRM_REJECTION),
    (Event.TRANSPORT_INDICATED, State.IDLE): Action.START_TIMER,
    **_row(Event.ASSOCIATE_RQ_PDU, Action.INDICATE_REQUEST, Action.ABORT_AS_PROVIDER, Action.ABORT_AGAIN),
    (Event.ACCEPT, State.AWAITING_LOCAL_ANSWER): Action.SEND_ASSOCIATE_AC,
    (Event.REJECT, State.AWAITING_LOCAL_ANSWER): Action.SEND_ASSOCIATE_RJ,
    (Event.DATA_REQUEST, State.ESTABLISHED): Action.SEND_DATA,
    (Event.DATA_REQUEST, State.AWAITING_LOCAL_RELEASE): Action.SEND_DATA_WHILE_RELEASING,
    **_unexpected(Event.DATA_PDU, ESTABLISHED=Action.INDICATE_DATA, AWAITING_RELEASE=Action.INDICATE_DATA_WHILE_RELEASING),
    (Event.RELEASE_REQUEST, State.ESTABLISHED): Action.SEND_RELEASE_RQ,
    **_unexpected(
        Event.RELEASE_RQ_PDU,
        ESTABLISHED=Action.INDICATE_RELEASE,
        AWAITING_RELEASE=Action.INDICATE_RELEASE_COLLISION,
    ),
    **_unexpected(
        Event.RELEASE_RP_PDU,
        AWAITING_RELEASE=Action.CONFIRM_RELEASE_AND_CLOSE,
        COLLISION_ACCEPTOR_REMOTE=Action.CONFIRM_RELEASE_IN_COLLISION,
        COLLISION_REQUESTOR_REMOTE=Action.CONFIRM_RELEASE_AND_CLOSE,
    ),
    (Event.RELEASE_RESPONSE, State.AWAITING_LOCAL_RELEASE): Action.SEND_RELEASE_RP,
    (Event.RELEASE_RESPONSE, State.COLLISION_REQUESTOR_LOCAL): Action.SEND_RELEASE_RP_IN_COLLISION,
    (Event.RELEASE_RESPONSE, State.COLLISION_ACCEPTOR_LOCAL): Action.SEND_RELEASE_RP,
    (Event.ABORT_REQUEST, State.CONNECTING): Action.CLOSE,
    **{(Event.ABORT_REQUEST, state): Action.ABORT_AS_USER for state in _ASSOCIATED},
    **_row(Event.ABORT_PDU, Action.CLOSE, Action.INDICATE_ABORT, Action.CLOSE),
    **_row(Event.TRANSPORT_CLOSED, Action.FORGET, Action.INDICATE_LOSS, Action.STOP_TIMER, CONNECTING=Action.INDICATE_LOSS),
    (Event.TIMER_EXPIRED, State.AWAITING_REQUEST): Action.CLOSE,
    (Event.TIMER_EXPIRED, State.AWAITING_CLOSE): Action.CLOSE,
    **_row(Event.INVALID_PDU, Action.ABORT_AS_USER, Action.ABORT_AS_PROVIDER, Action.ABORT_AGAIN),
}


class UpperLayer:
    """One association's state. Starts idle."""

    __slots__ = ("_requestor", "state")

    def __init__(self, *, requestor: bool) -> None:
        self._requestor = requestor
        self.state = State.IDLE

    def on(self, event: Event) -> Action:
        """Take note of an event; what is to be done now. KeyError for what a local user cannot wish in this state."""
        action = TABLE[event, self.state]
        self.state = _NEXT[action]
        if action is Action.INDICATE_RELEASE_COLLISION and self._requestor:
            self.state = State.COLLISION_REQUESTOR_LOCAL
        return action
