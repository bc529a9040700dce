"""How far a unified procedure step may come, and who may change it where it has come to: the tables of PS3.4 CC.1.1 and CC.2.6. Pure."""

from collections.abc import Mapping
from enum import Enum, IntEnum, StrEnum

from pacs_core.errors import (
    CompletedUnifiedStep,
    DuplicateInstance,
    FinalUnifiedStep,
    NotYetInProgress,
    NoUnifiedStep,
    PacsError,
    ReturnToScheduled,
    UnifiedStepTaken,
    WrongTransaction,
)


class State(StrEnum):
    """PS3.4 table CC.1.1-1."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class Request(StrEnum):
    """The rows of table CC.1.1-2: what is asked for."""

    CREATE = "creation"
    TAKE = "to IN PROGRESS"
    TAKE_UNKEYED = "to IN PROGRESS without the Transaction UID"
    SCHEDULE = "to SCHEDULED"
    COMPLETE = "to COMPLETED"
    COMPLETE_UNKEYED = "to COMPLETED without the Transaction UID"
    REQUEST_CANCEL = "request to cancel"
    CANCEL = "to CANCELED"
    CANCEL_UNKEYED = "to CANCELED without the Transaction UID"


class Already(IntEnum):
    """Warnings: it is in the state that is asked for."""

    CANCELED = 0xB304
    COMPLETED = 0xB306


# What comes of a request: the states that the step passes through, each of which is reported (none: the performer is told what is
# wanted of it), a warning, or an error.
Passed = tuple[State, ...]
Outcome = Passed | Already | type[PacsError]

_COLUMNS: tuple[State | None, ...] = (None, *State)


def _row(*outcomes: Outcome) -> Mapping[State | None, Outcome]:
    return dict(zip(_COLUMNS, outcomes, strict=True))


def _unkeyed() -> Mapping[State | None, Outcome]:
    return _row(NoUnifiedStep, *[WrongTransaction] * len(State))


# Table CC.1.1-2; the column None is a step that does not exist.
TRANSITIONS: Mapping[Request, Mapping[State | None, Outcome]] = {
    Request.CREATE: _row((State.SCHEDULED,), *[DuplicateInstance] * len(State)),
    Request.TAKE: _row(NoUnifiedStep, (State.IN_PROGRESS,), UnifiedStepTaken, FinalUnifiedStep, FinalUnifiedStep),
    Request.TAKE_UNKEYED: _unkeyed(),
    Request.SCHEDULE: _row(NoUnifiedStep, *[ReturnToScheduled] * len(State)),
    Request.COMPLETE: _row(NoUnifiedStep, NotYetInProgress, (State.COMPLETED,), Already.COMPLETED, FinalUnifiedStep),
    Request.COMPLETE_UNKEYED: _unkeyed(),
    Request.REQUEST_CANCEL: _row(NoUnifiedStep, (State.IN_PROGRESS, State.CANCELED), (), CompletedUnifiedStep, Already.CANCELED),
    Request.CANCEL: _row(NoUnifiedStep, NotYetInProgress, (State.CANCELED,), FinalUnifiedStep, Already.CANCELED),
    Request.CANCEL_UNKEYED: _unkeyed(),
}

# The change of state that is asked for, with the Transaction UID of the step and without it.
CHANGES: Mapping[State, tuple[Request, Request]] = {
    State.SCHEDULED: (Request.SCHEDULE, Request.SCHEDULE),
    State.IN_PROGRESS: (Request.TAKE, Request.TAKE_UNKEYED),
    State.COMPLETED: (Request.COMPLETE, Request.COMPLETE_UNKEYED),
    State.CANCELED: (Request.CANCEL, Request.CANCEL_UNKEYED),
}


class Key(Enum):
    """The Transaction UID of an N-SET: none, that of the step, another. Of a step that nobody has taken, any is another."""

    NONE = "absent"
    RIGHT = "that of the step"
    WRONG = "another"


# Who may change attributes in which state (CC.2.6.2, CC.2.6.3): None where it may be done.
SETTING: Mapping[State, Mapping[Key, type[PacsError] | None]] = {
    State.SCHEDULED: {Key.NONE: None, Key.RIGHT: NotYetInProgress, Key.WRONG: NotYetInProgress},
    State.IN_PROGRESS: {Key.NONE: WrongTransaction, Key.RIGHT: None, Key.WRONG: WrongTransaction},
    State.COMPLETED: dict.fromkeys(Key, FinalUnifiedStep),
    State.CANCELED: dict.fromkeys(Key, FinalUnifiedStep),
}
