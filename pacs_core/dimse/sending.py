"""C-STORE as SCU: stored instances to a peer, as they are stored where it accepts that, else transcoded.

Used by C-MOVE, C-GET and the command line alike.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pacs_core.archive.stored import StoredDataSet
from pacs_core.dicom.transcode import can_transcode, transcode
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import NotAcceptedByPeer
from pacs_core.dimse.command import DATA_SET, Command, CommandField, encode
from pacs_core.dimse.connection import Aborted, AssociationEnded
from pacs_core.dimse.negotiation import LITTLE_ENDIAN, Context, Proposal
from pacs_core.dimse.outgoing import OutgoingMessage
from pacs_core.dimse.pool import AssociationPool, Loan
from pacs_core.dimse.request_form import MAXIMUM_CONTEXTS
from pacs_core.errors import ChecksumMismatch, PacsError, PeerUnavailable, StorageUnavailable
from pacs_core.model import Peer

_MEDIUM_PRIORITY = 0
_PROCESSING_FAILURE = 0x0110
_FUTILE_ASSOCIATIONS = 3


class WrongBytes(Aborted):
    """An object turned out to be damaged while it was sent. The association was ended before the peer could have it whole."""

    dimse_status = ChecksumMismatch.dimse_status


class Sendable(Protocol):
    """What must be known of an instance before it is sent."""

    @property
    def SOPClassUID(self) -> str: ...
    @property
    def SOPInstanceUID(self) -> str: ...
    @property
    def TransferSyntaxUID(self) -> str: ...


S = TypeVar("S", bound=Sendable)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[S]):
    """What became of one instance.

    Attributes:
        instance: the instance.
        status: of its C-STORE.
        reason: why, where it is not the peer's own status.
        size: bytes of the data set that was sent; 0 where the peer has not answered.
        seconds: from sending it to the peer's answer.
        is_away: the peer was not there, or left before it answered.
    """

    instance: S
    status: int
    reason: str = ""
    size: int = 0
    seconds: float = 0.0
    is_away: bool = False


@dataclass(frozen=True, slots=True)
class MoveOriginator:
    """Who asked for it, told to the destination of a C-MOVE (PS3.7 9.1.1.1)."""

    ae_title: str
    message_id: int


def batches(instances: Sequence[S], wanted: Sequence[str] = ()) -> Iterator[tuple[list[Proposal], Sequence[S]]]:
    """Cut instances into runs that one association can carry, with the presentation contexts to propose for each.

    `wanted`: the transfer syntaxes to which the peer is kept, where an instance can be had in one of them; empty for any.
    """
    start, proposals = 0, dict[tuple[str, tuple[str, ...]], Proposal]()
    for index, instance in enumerate(instances):
        needed = _proposals(instance, wanted)
        if len(proposals.keys() | needed.keys()) > MAXIMUM_CONTEXTS:
            yield list(proposals.values()), instances[start:index]
            start, proposals = index, {}
        proposals.update(needed)
    if proposals:
        yield list(proposals.values()), instances[start:]


def _proposals(instance: Sendable, wanted: Sequence[str]) -> dict[tuple[str, tuple[str, ...]], Proposal]:
    """A context for the syntax it is stored in, alone, so that it is sent as stored if at all possible; and a fallback."""
    uid, stored = instance.SOPClassUID, instance.TransferSyntaxUID
    possible = tuple(syntax for syntax in wanted if can_transcode(stored, syntax))
    as_stored = [(stored,)] if stored in possible or not possible else []
    return {(uid, syntaxes): Proposal(uid, syntaxes) for syntaxes in (*as_stored, possible or LITTLE_ENDIAN)}


def choose_context(assoc: Association, instance: Sendable) -> Context:
    """The context to send an instance in. NotAcceptedByPeer if there is none."""
    stored = instance.TransferSyntaxUID
    as_stored = assoc.agreement.context_for(instance.SOPClassUID, transfer_syntax=stored)
    if as_stored:
        return as_stored
    for context in assoc.agreement.contexts.values():
        if context.as_scu and context.abstract_syntax == instance.SOPClassUID and can_transcode(stored, context.transfer_syntax):
            return context
    raise NotAcceptedByPeer(f"the peer accepts SOP class {instance.SOPClassUID} in no transfer syntax that {stored} can be turned into")


class Courier(Generic[S]):
    """Sends a queue of instances over one association. While the peer works on one, the next is read and laid out.

    Args:
        assoc: the association.
        queue: what is to be sent, taken from the left. What was not sent in the end is put back.
        open_source: gives the data set of an instance. Its PacsError fails that instance.
        originator: whoever asked for it by C-MOVE.
        proceed: asked before each instance whether it is still wanted.
        answered: told what the peer has answered before the next instance is sent.

    Attributes:
        lost: the instance that was on its way when the association ended, and why it did; None as long as it is open.
        answered: how many instances the peer has answered.
    """

    def __init__(
        self,
        assoc: Association,
        queue: deque[S],
        open_source: Callable[[S], StoredDataSet],
        *,
        originator: MoveOriginator | None = None,
        proceed: Callable[[], bool] = lambda: True,
        answered: Callable[[Outcome[S]], object] = lambda _: None,
    ) -> None:
        self._assoc = assoc
        self._queue = queue
        self._open_source = open_source
        self._originator = originator
        self._proceed = proceed
        self._tell = answered
        self._message = OutgoingMessage(assoc.connection.fragment_size)
        self._loaded: _Parcel[S] | None = None
        self._sent: _Parcel[S] | None = None
        self.lost: tuple[S, AssociationEnded] | None = None
        self.answered = 0
        assoc.connection.expect_bulk()

    def outcomes(self) -> Generator[Outcome[S], None, None]:
        """What became of each instance, in order, until all are sent, the association ends or no more are wanted."""
        try:
            yield from self._load()
            self._send()
            while self._sent is not None:
                failures = self._load()
                outcome = self._await_answer()
                if outcome is None:
                    self._put_back(failures)
                    return
                self._send()
                yield outcome
                yield from failures
        finally:
            self._put_back()

    def finish(self) -> None:
        """Wait for the answer to what is on its way, so that the association can be used for something else."""
        if self._sent is not None:
            self._await_answer()

    def _load(self) -> list[Outcome[S]]:
        """Lay out the next instance; the outcomes of those before it that cannot be sent."""
        failures: list[Outcome[S]] = []
        while self._queue and self._loaded is None:
            instance = self._queue.popleft()
            try:
                self._loaded = self._lay_out(instance)
            except PacsError as exc:
                failures.append(Outcome(instance, exc.dimse_status, str(exc)))
        return failures

    def _lay_out(self, instance: S) -> "_Parcel[S]":
        context, message_id = choose_context(self._assoc, instance), self._assoc.next_message_id()
        source = _in_transfer_syntax(self._open_source(instance), instance.TransferSyntaxUID, context.transfer_syntax)
        try:
            self._message.load(context.id, _request(instance, message_id, self._originator), source)
        except PacsError:
            source.close()
            raise
        except OSError as exc:
            source.close()
            raise StorageUnavailable(f"{instance.SOPInstanceUID} cannot be read: {exc.strerror or exc}") from exc
        return _Parcel(instance, message_id, source)

    def _send(self) -> None:
        """Send what is laid out, if it is still wanted. Where that fails, waiting for the answer tells."""
        if self._loaded is None or not self._proceed():
            return
        parcel, self._loaded = self._loaded, None
        self._sent, parcel.sent_at = parcel, time.perf_counter()
        try:
            self._assoc.connection.send_blocks(self._message.blocks())
        except AssociationEnded as exc:
            parcel.failure = exc
        except ChecksumMismatch as exc:
            self._assoc.connection.abort()
            parcel.failure = WrongBytes(str(exc))
        except OSError as exc:  # the message is half sent: nothing but an abort can end it
            self._assoc.connection.abort()
            parcel.failure = Aborted(f"{parcel.instance.SOPInstanceUID} could not be read to its end: {exc.strerror or exc}")
        finally:
            parcel.source.close()

    def _await_answer(self) -> Outcome[S] | None:
        """The outcome of what is on its way; None if the association has ended instead."""
        assert self._sent is not None
        parcel, self._sent = self._sent, None
        try:
            if parcel.failure is not None:
                raise parcel.failure
            _, answer = self._assoc.receive_response(parcel.message_id)
        except AssociationEnded as exc:
            self._assoc.connection.abort()
            self.lost = parcel.instance, exc
            return None
        self.answered += 1
        status = _PROCESSING_FAILURE if answer.Status is None else answer.Status
        outcome = Outcome(parcel.instance, status, "", parcel.source.size, time.perf_counter() - parcel.sent_at)
        self._tell(outcome)
        return outcome

    def _put_back(self, failures: Sequence[Outcome[S]] = ()) -> None:
        """Leave what was not sent, and what could not be, to whoever comes next."""
        if self._loaded is not None:
            self._loaded.source.close()
            self._queue.appendleft(self._loaded.instance)
            self._loaded = None
        self._queue.extendleft(outcome.instance for outcome in reversed(failures))


@dataclass(slots=True)
class _Parcel(Generic[S]):
    """One instance that is laid out or on its way."""

    instance: S
    message_id: int
    source: "StoredDataSet | _Transcoded"
    sent_at: float = 0.0
    failure: AssociationEnded | None = None


def _request(instance: Sendable, message_id: int, originator: MoveOriginator | None) -> bytes:
    command = Command(
        CommandField=CommandField.C_STORE,
        MessageID=message_id,
        AffectedSOPClassUID=instance.SOPClassUID,
        AffectedSOPInstanceUID=instance.SOPInstanceUID,
        Priority=_MEDIUM_PRIORITY,
        CommandDataSetType=DATA_SET,
        MoveOriginatorApplicationEntityTitle=originator.ae_title if originator else None,
        MoveOriginatorMessageID=originator.message_id if originator else None,
    )
    return encode(command)


class _Transcoded:
    """A data set in another transfer syntax than it is stored in, in memory."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def read_into(self, buffers: Sequence[memoryview], position: int) -> None:
        """As outgoing.Source."""
        for buffer in buffers:
            buffer[:] = self._data[position : position + len(buffer)]
            position += len(buffer)

    def close(self) -> None:
        """Nothing is open."""


def _in_transfer_syntax(source: StoredDataSet, stored: str, wanted: str) -> StoredDataSet | _Transcoded:
    if stored == wanted:
        return source
    with source:
        try:
            source.check()
        except OSError as exc:
            raise StorageUnavailable(f"{source.path.name} cannot be read: {exc.strerror or exc}") from exc
        return _Transcoded(transcode(source.location, wanted, name=source.path.name))


def deliver(
    pool: AssociationPool,
    peer: Peer,
    instances: Sequence[S],
    open_source: Callable[[S], StoredDataSet],
    *,
    originator: MoveOriginator | None = None,
    proceed: Callable[[], bool] = lambda: True,
    answered: Callable[[Outcome[S]], object] = lambda _: None,
) -> Generator[Outcome[S], None, None]:
    """Send instances to a peer over as few associations as possible; yields the outcome of each, in order.

    An association that breaks fails the instance on its way; the rest go over a new one. Where it broke because the instance was found
    damaged while it was sent, that is opened once more, which may find a copy. If none can be opened, or one after
    the other breaks at its first instance, all that remain fail: a peer that takes instances in and never answers would
    otherwise cost the response time-out for each of them. Ends early where `proceed` says so.

    What the peer answers is told to `answered` before the next instance is sent: if that keeps it durably, a process that is killed
    leaves at most one instance of which it is not known that the peer has it.
    """
    reread: set[str] = set()
    for proposals, batch in batches(instances, peer.transfer_syntaxes):
        queue, futile = deque(batch), 0
        while queue and proceed():
            left = len(queue)
            try:
                loan = pool.borrow(peer, proposals)
            except PacsError as exc:
                yield from _fail(queue, exc)
                break
            courier = Courier(loan.assoc, queue, open_source, originator=originator, proceed=proceed, answered=answered)
            yield from _deliver_over(pool, loan, courier, queue, reread)
            futile = futile + 1 if left - len(queue) == 1 else 0
            if queue and futile == _FUTILE_ASSOCIATIONS:
                yield from _fail(queue, PeerUnavailable(f"{futile} associations in a row broke at their first instance"))
                break


def _fail(queue: deque[S], exc: PacsError) -> Iterator[Outcome[S]]:
    away = isinstance(exc, PeerUnavailable) and not isinstance(exc, NotAcceptedByPeer)
    return (Outcome(instance, exc.dimse_status, str(exc), is_away=away) for instance in queue)


def _deliver_over(
    pool: AssociationPool, loan: Loan, courier: Courier[S], queue: deque[S], reread: set[str]
) -> Generator[Outcome[S], None, None]:
    """Empty the queue, or end with the instance at which the association broke."""
    reused = loan.reused
    try:
        yield from courier.outcomes()
    finally:
        courier.finish()
        pool.give_back(loan)
    if courier.lost is None:
        return
    instance, exc = courier.lost
    if reused and not courier.answered and not isinstance(exc, WrongBytes):
        queue.appendleft(instance)  # the peer was ending the idle association, and perhaps never saw it
    elif isinstance(exc, WrongBytes) and instance.SOPInstanceUID not in reread:
        reread.add(instance.SOPInstanceUID)
        queue.appendleft(instance)
    else:
        yield Outcome(instance, exc.dimse_status, str(exc), is_away=not isinstance(exc, WrongBytes))


def is_success(status: int) -> bool:
    """Stored, possibly with a warning (PS3.4 B.2.3)."""
    return status == 0 or is_warning(status)


def is_warning(status: int) -> bool:
    """Stored, with a warning (PS3.4 B.2.3, PS3.7 annex C.4)."""
    return status & 0xF000 == 0xB000 or status in (0x0001, 0x0107, 0x0116)
