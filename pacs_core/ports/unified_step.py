"""What unified procedure steps ask of the index: steps, who is told of them, and the reports that this causes (PS3.4 annex CC).

A step is an item of the worklist. Every method may raise IndexUnavailable. Each is one transaction, and those that concern one step come
one after the other; what a callback raises leaves everything as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from pacs_core.model import Header
from pacs_core.ports.modality import Attributes, Entry, Report


class Subscription(StrEnum):
    """Whether an AE is told of a step, and keeps it from being removed (PS3.4 CC.2.3.1)."""

    NONE = "Not Subscribed"
    LOCKED = "Subscribed with Lock"
    UNLOCKED = "Subscribed w/o Lock"


@dataclass(frozen=True, slots=True)
class UnifiedStep:
    """A unified procedure step as it is kept.

    Attributes:
        item: as an item of the worklist.
        TransactionUID: of who performs it; "" for nobody.
        attributes: all that is told of it, in the DICOM JSON Model.
    """

    SOPInstanceUID: str
    item: Entry
    TransactionUID: str
    attributes: Attributes


class Kept(NamedTuple):
    """What a change needs of a step that is there (see UnifiedStep)."""

    TransactionUID: str
    attributes: Attributes


class Watcher(NamedTuple):
    """Who is subscribed to each new step that has what the keys demand, with a lock or without (global subscription)."""

    ae_title: str
    subscription: Subscription
    keys: Header


# Of a new step and all who watch: their subscriptions to it, by AE title, and what they are told.
Greet = Callable[[Sequence[Watcher]], tuple[Mapping[str, Subscription], Sequence[Report]]]
# Of a step and the AE titles that are subscribed to it: how it is now (None: as it was, and nothing has happened), and what they are told.
Change = Callable[[Kept, Sequence[str]], tuple[UnifiedStep | None, Sequence[Report]]]
# Of a step and an AE's subscription to it: that subscription now, and what it is told.
Decide = Callable[[Kept, Subscription], tuple[Subscription, Sequence[Report]]]


class UnifiedSteps(Protocol):
    """What is to be done, by whomever takes it."""

    def create(self, step: UnifiedStep, calling_ae: str, greet: Greet) -> None:
        """Enter a step. DuplicateInstance if there is one of that UID."""

    def change(self, uid: str, calling_ae: str, operation: str, change: Change) -> None:
        """Change a step; `operation` is what its history calls that. NoUnifiedStep."""

    def subscribe(self, uid: str, receiver: str, decide: Decide) -> None:
        """Change an AE's subscription to a step. NoUnifiedStep."""

    def subscribe_to_all(self, receiver: str, watcher: Watcher | None, decide: Decide) -> None:
        """Change an AE's subscription to new steps (None: it has none now) and to each that is there."""

    def announce(self, report: Report, before: datetime) -> None:
        """Owe a report, whose peer is yet to be named, to every AE that was subscribed to anything before an instant.

        Not to one that is owed it already, or was a moment ago: several processes that announce the same at once are as one.
        """

    def get(self, uid: str) -> Kept:
        """A step. NoUnifiedStep."""

    def headers(self, keys: Mapping[str, str]) -> Sequence[Header]:
        """The steps that have just these values of SOPInstanceUID, PatientID, StudyInstanceUID and `state`, in the order in which they are
        scheduled."""
