"""Who is told of which unified procedure steps: the subscriptions of PS3.4 CC.2.3. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from pydicom import Dataset

from pacs_core.dicom.headers import header_of
from pacs_core.dicom.matching import matches, parse_criteria
from pacs_core.errors import InvalidAttributeValue, UnsuitedAction
from pacs_core.model import Header
from pacs_core.ports.unified_step import Subscription, Watcher
from pacs_core.workflow.attributes import require, text_of

GLOBAL, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"  # well-known instances: all steps, and those that match
RECEIVER, LOCK = "ReceivingAE", "DeletionLock"


class Action(IntEnum):
    """Of an N-ACTION on a unified procedure step (CC.2.1 to CC.2.3)."""

    CHANGE_STATE = 1
    REQUEST_CANCEL = 2
    SUBSCRIBE = 3
    UNSUBSCRIBE = 4
    SUSPEND = 5


class Instruction(Enum):
    """The rows of table CC.2.3-2: what an AE wants of steps that are there."""

    SUBSCRIBE_TO_ALL_LOCKED = "subscribes globally with lock"
    SUBSCRIBE_TO_ALL = "subscribes globally w/o lock"
    SUBSCRIBE_LOCKED = "subscribes to specific UPS with lock"
    SUBSCRIBE = "subscribes to specific UPS without lock"
    UNSUBSCRIBE = "unsubscribes from specific UPS"
    UNSUBSCRIBE_FROM_ALL = "unsubscribes globally"
    SUSPEND = "suspends global subscription"


@dataclass(frozen=True, slots=True)
class Effect:
    """The subscription to a step, and whether its state is told at once (initial event)."""

    after: Subscription
    is_told: bool = False


NONE, LOCKED, UNLOCKED = Subscription.NONE, Subscription.LOCKED, Subscription.UNLOCKED
_AS_IT_IS: Mapping[Subscription, Effect] = {each: Effect(each) for each in Subscription}

# Table CC.2.3-2, by what the subscription has been.
SUBSCRIPTIONS: Mapping[Instruction, Mapping[Subscription, Effect]] = {
    Instruction.SUBSCRIBE_TO_ALL_LOCKED: {**_AS_IT_IS, NONE: Effect(LOCKED, is_told=True)},
    Instruction.SUBSCRIBE_TO_ALL: {**_AS_IT_IS, NONE: Effect(UNLOCKED)},
    Instruction.SUBSCRIBE_LOCKED: dict.fromkeys(Subscription, Effect(LOCKED, is_told=True)),
    Instruction.SUBSCRIBE: dict.fromkeys(Subscription, Effect(UNLOCKED, is_told=True)),
    Instruction.UNSUBSCRIBE: dict.fromkeys(Subscription, Effect(NONE)),
    Instruction.UNSUBSCRIBE_FROM_ALL: dict.fromkeys(Subscription, Effect(NONE)),
    Instruction.SUSPEND: _AS_IT_IS,
}
# The same table of new steps, by the global subscription that there is: it becomes the one to the step.
AT_CREATION: Mapping[Subscription, Effect] = {
    NONE: Effect(NONE),
    LOCKED: Effect(LOCKED, is_told=True),
    UNLOCKED: Effect(UNLOCKED, is_told=True),
}

# The instructions by action and lock, for a step and for all.
_OF_A_STEP: Mapping[tuple[Action, bool], Instruction] = {
    (Action.SUBSCRIBE, True): Instruction.SUBSCRIBE_LOCKED,
    (Action.SUBSCRIBE, False): Instruction.SUBSCRIBE,
    (Action.UNSUBSCRIBE, False): Instruction.UNSUBSCRIBE,
}
_OF_ALL: Mapping[tuple[Action, bool], Instruction] = {
    (Action.SUBSCRIBE, True): Instruction.SUBSCRIBE_TO_ALL_LOCKED,
    (Action.SUBSCRIBE, False): Instruction.SUBSCRIBE_TO_ALL,
    (Action.UNSUBSCRIBE, False): Instruction.UNSUBSCRIBE_FROM_ALL,
    (Action.SUSPEND, False): Instruction.SUSPEND,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What an N-ACTION wants of subscriptions.

    Attributes:
        receiver: whose they are.
        keys: what a step must have that is meant by one to all; empty for all.
        watcher: the global subscription that there is to be; None for none, and where the wish is about one step.
    """

    instruction: Instruction
    receiver: str
    keys: Header
    watcher: Watcher | None

    def effect(self, header: Header, before: Subscription) -> Effect:
        """Of a step that is there."""
        return SUBSCRIPTIONS[self.instruction][before] if matches(self.keys, header) else Effect(before)


def wish_of(action: Action, uid: str, information: Dataset) -> Wish:
    """UnsuitedAction, MissingAttribute, MissingAttributeValue, InvalidAttributeValue, InvalidIdentifier."""
    require(information, (RECEIVER, LOCK) if action is Action.SUBSCRIBE else (RECEIVER,), of="an action on subscriptions")
    receiver, is_locked = text_of(information, RECEIVER), action is Action.SUBSCRIBE and _is_locked(information)
    instruction = (_OF_ALL if uid in (GLOBAL, FILTERED) else _OF_A_STEP).get((action, is_locked))
    if instruction is None:
        raise UnsuitedAction("only a global subscription is suspended")
    keys = _keys(information) if uid == FILTERED and action is Action.SUBSCRIBE else {}
    of_all = uid in (GLOBAL, FILTERED) and action is Action.SUBSCRIBE
    return Wish(instruction, receiver, keys, Watcher(receiver, LOCKED if is_locked else UNLOCKED, keys) if of_all else None)


def greeted(header: Header, watchers: Sequence[Watcher]) -> Mapping[str, Effect]:
    """What becomes of a new step for those who watch and want steps like it."""
    return {each.ae_title: AT_CREATION[each.subscription] for each in watchers if matches(each.keys, header)}


def _is_locked(information: Dataset) -> bool:
    value = text_of(information, LOCK)
    if value not in ("TRUE", "FALSE"):
        raise InvalidAttributeValue(f"{LOCK} is TRUE or FALSE")
    return value == "TRUE"


def _keys(information: Dataset) -> Header:
    """InvalidIdentifier if they cannot be matched."""
    keys = {keyword: value for keyword, value in header_of(information).items() if keyword not in (RECEIVER, LOCK)}
    parse_criteria(keys)
    return keys
