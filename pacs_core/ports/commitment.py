"""What storage commitment asks of the index: requests that survive everything, checked once, answered once (PS3.4 annex J).

Every method may raise IndexUnavailable. Each is one transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, Protocol

from pacs_core.ports.modality import Report


class Reference(NamedTuple):
    """An instance as a request names it."""

    SOPClassUID: str
    SOPInstanceUID: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is ours to check for a while.

    Attributes:
        peer: the AE title that asks.
        is_repeated: its TransactionUID was in use for other instances.
        instances: how many it names.
        attempts: at checking it, this one included.
        age: since it came.
    """

    number: int
    peer: str
    TransactionUID: str
    is_repeated: bool
    instances: int
    attempts: int
    age: timedelta


class Entered(NamedTuple):
    """A request that is kept: its number, and that of the report that is owed for it already, or None until it has been checked."""

    number: int
    report: int | None


class Commitments(Protocol):
    """Requests of peers to us. Any number of processes may share them."""

    def enter(self, peer: str, transaction: str, references: Sequence[Reference]) -> Entered:
        """Keep a request. The same request once more is the same one, and what was reported is owed once more."""

    def claim(self, *, lease: timedelta, number: int | None = None) -> Request | None:
        """A request that is due, or just this one, ours for so long; None if there is none."""

    def renew(self, number: int, lease: timedelta) -> None:
        """It is ours for so long from now on."""

    def references(self, number: int) -> Sequence[Reference]:
        """The instances of a request, in their order."""

    def put_off(self, number: int, error: str, after: timedelta) -> None:
        """It could not be checked; it is tried again after a while."""

    def finish(self, number: int, failures: Mapping[int, int], report: Report) -> int | None:
        """It is checked: the failure reasons of those positions that are not committed. The report is owed to the peer; its number.

        None where somebody else has finished it: nothing is owed once more.
        """


class Requests(Protocol):
    """Requests of ours to peers."""

    def ask(self, peer: str, transaction: str, references: Sequence[Reference]) -> None:
        """Keep what is about to be asked for."""

    def answered(self, transaction: str, failures: Mapping[str, int]) -> None:
        """The peer has answered: the failure reasons of instances that it does not commit to. Repeatable. NotFound."""

    def outcome(self, transaction: str) -> Mapping[str, int] | None:
        """The failures, once it is answered; None until then. NotFound."""
