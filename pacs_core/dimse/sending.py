"""C-STORE as SCU: stored instances to a peer, as they are stored where it accepts that, else transcoded.

Used by C-MOVE, C-GET and the command line alike.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar

from pacs_core.archive.retrieval import DataSetFile
from pacs_core.dicom.transcode import can_transcode, transcode
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import Aborted, AssociationEnded
from pacs_core.dimse.negotiation import Context, Proposal
from pacs_core.dimse.request_form import MAXIMUM_CONTEXTS
from pacs_core.errors import ObjectMissing, PacsError, PeerUnavailable, StorageUnavailable
from pacs_core.model import Peer

EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_FALLBACK = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_MEDIUM_PRIORITY = 0
_PROCESSING_FAILURE = 0x0110
_FUTILE_ASSOCIATIONS = 3


class NotAcceptedByPeer(PeerUnavailable):
    """The peer accepted no presentation context in which the instance could be sent."""

    retryable = False


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
    """What became of one instance: the C-STORE status, and why where it was not the peer's own."""

    instance: S
    status: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MoveOriginator:
    """Who asked for it, told to the destination of a C-MOVE (PS3.7 9.1.1.1)."""

    ae_title: str
    message_id: int


def batches(instances: Sequence[S]) -> Iterator[tuple[list[Proposal], Sequence[S]]]:
    """Cut instances into runs that one association can carry, with the presentation contexts to propose for each."""
    start, proposals = 0, dict[tuple[str, str], Proposal]()
    for index, instance in enumerate(instances):
        wanted = _proposals(instance)
        if len(proposals.keys() | wanted.keys()) > MAXIMUM_CONTEXTS:
            yield list(proposals.values()), instances[start:index]
            start, proposals = index, {}
        proposals.update(wanted)
    if proposals:
        yield list(proposals.values()), instances[start:]


def _proposals(instance: Sendable) -> dict[tuple[str, str], Proposal]:
    """A context for the syntax it is stored in, alone, so that it is sent as stored if at all possible; and a fallback."""
    uid, stored = instance.SOPClassUID, instance.TransferSyntaxUID
    return {
        (uid, stored): Proposal(uid, (stored,)),
        (uid, ""): Proposal(uid, _FALLBACK),
    }


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


def _send_request(assoc: Association, instance: Sendable, source: DataSetFile, originator: MoveOriginator | None = None) -> int:
    """Send one C-STORE request; returns its Message ID. The response is to be read next."""
    context = choose_context(assoc, instance)
    message_id = assoc.next_message_id()
    command = Command(
        CommandField=CommandField.C_STORE,
        MessageID=message_id,
        AffectedSOPClassUID=instance.SOPClassUID,
        AffectedSOPInstanceUID=instance.SOPInstanceUID,
        Priority=_MEDIUM_PRIORITY,
        MoveOriginatorApplicationEntityTitle=originator.ae_title if originator else None,
        MoveOriginatorMessageID=originator.message_id if originator else None,
    )
    with _data_set(source, instance.TransferSyntaxUID, context.transfer_syntax) as (file, size):
        try:
            assoc.send_file(context, command, file, size)
        except OSError as exc:  # the message is half sent: nothing but an abort can end it
            assoc.connection.abort()
            raise Aborted(f"{source.path.name} could not be read to its end") from exc
    return message_id


def store(assoc: Association, instance: Sendable, source: DataSetFile, originator: MoveOriginator | None = None) -> int:
    """Send one instance and wait for the peer's answer: its status (PS3.4 B.2.3)."""
    message_id = _send_request(assoc, instance, source, originator)
    _, answer = assoc.receive_response(message_id)
    return answer.Status if answer.Status is not None else _PROCESSING_FAILURE


def deliver(
    caller: Caller, peer: Peer, instances: Sequence[S], source_of: Callable[[S], DataSetFile], originator: MoveOriginator | None = None
) -> Generator[Outcome[S], None, None]:
    """Send instances to a peer over as few associations as possible; yields the outcome of each, in order.

    An association that breaks fails the instance on its way; the rest go over a new one. If none can be opened, or one after
    the other breaks at its first instance, all that remain fail: a peer that takes instances in and never answers would
    otherwise cost the response time-out for each of them.
    """
    for proposals, batch in batches(instances):
        queue, futile = deque(batch), 0
        while queue:
            left = len(queue)
            try:
                assoc = caller.associate(peer, proposals)
            except PacsError as exc:
                yield from _fail(queue, exc)
                break
            yield from _deliver_over(assoc, queue, source_of, originator)
            futile = futile + 1 if left - len(queue) == 1 else 0
            if queue and futile == _FUTILE_ASSOCIATIONS:
                yield from _fail(queue, PeerUnavailable(f"{futile} associations in a row broke at their first instance"))
                break


def _fail(queue: deque[S], exc: PacsError) -> Iterator[Outcome[S]]:
    return (Outcome(instance, exc.dimse_status, str(exc)) for instance in queue)


def _deliver_over(
    assoc: Association, queue: deque[S], source_of: Callable[[S], DataSetFile], originator: MoveOriginator | None
) -> Generator[Outcome[S], None, None]:
    """Empty the queue, or end after the instance at which the association broke."""
    try:
        while queue:
            instance = queue.popleft()
            try:
                outcome = Outcome(instance, store(assoc, instance, source_of(instance), originator))
            except PacsError as exc:
                outcome = Outcome(instance, exc.dimse_status, str(exc))
                if isinstance(exc, AssociationEnded):
                    assoc.connection.abort()
                    yield outcome
                    return
            yield outcome
    finally:
        assoc.release()


@contextmanager
def _data_set(source: DataSetFile, stored: str, wanted: str) -> Iterator[tuple[BinaryIO, int]]:
    """The data set's bytes in the wanted transfer syntax: positioned at its start, and its size."""
    if stored != wanted:
        data = transcode(source.path, wanted)
        yield BytesIO(data), len(data)
        return
    with _open(source.path) as file:
        file.seek(source.offset)
        yield file, os.fstat(file.fileno()).st_size - source.offset


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as exc:
        raise ObjectMissing(f"{path.name} is no longer there") from exc
    except OSError as exc:
        raise StorageUnavailable(f"{path.name} cannot be read: {exc.strerror}") from exc


def is_success(status: int) -> bool:
    """Stored, possibly with a warning (PS3.4 B.2.3)."""
    return status == 0 or is_warning(status)


def is_warning(status: int) -> bool:
    """Stored, with a warning (PS3.4 B.2.3, PS3.7 annex C.4)."""
    return status & 0xF000 == 0xB000 or status in (0x0001, 0x0107, 0x0116)
