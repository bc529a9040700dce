"""Messages over an open association, the same for both sides (PS3.7 6.3, 8.1). Belongs to one thread."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pacs_core.dimse import command as commands
from pacs_core.dimse.command import DATA_SET, NO_DATA_SET, Command, CommandField
from pacs_core.dimse.connection import AssociationEnded, Connection, Fragment, ProtocolViolation
from pacs_core.dimse.negotiation import Agreement, Context
from pacs_core.errors import PacsError

# Command sets are below 1 KiB; an identifier with a list of 15,000 UIDs reaches 1 MiB.
_COMMAND_LIMIT = 65_536
_IDENTIFIER_LIMIT = 1_048_576


@dataclass(slots=True)
class Association:
    """An open association.

    Attributes:
        id: names it in the log.
        connection: the bytes below.
        agreement: what was negotiated.
        peer_address: the other side, for the log.
        response_timeout: seconds that the peer may work on a request of ours before it answers.
    """

    id: str
    connection: Connection
    agreement: Agreement
    peer_address: str
    response_timeout: float = 300
    _cancelled: set[int] = field(default_factory=set)
    _message_ids: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(1, 65_536)))

    def next_message_id(self) -> int:
        """A Message ID for a request of ours."""
        return next(self._message_ids)

    def receive(self, *, idle: float | None = None) -> tuple[Context, Command]:
        """The next message's context and command set; its data set, where it has one, is to be read next.

        Raises ReleaseRequested, Aborted or ProtocolViolation instead, all AssociationEnded.
        """
        body = bytearray()
        while True:
            fragment = self.connection.fragment(idle=idle)
            context = self.agreement.contexts.get(fragment.context_id)
            if context is None:
                raise ProtocolViolation(f"presentation context {fragment.context_id} was not accepted")
            if not fragment.is_command:
                raise ProtocolViolation("data set fragments without a command set")
            body += fragment.data
            if len(body) > _COMMAND_LIMIT:
                raise ProtocolViolation(f"a command set of more than {_COMMAND_LIMIT} bytes")
            if fragment.is_last:
                return context, commands.decode(bytes(body))
            idle = None

    def data_set(self, context: Context) -> Iterator[Fragment]:
        """The fragments of the data set that follows a command set. To be exhausted before anything else is read."""
        while True:
            fragment = self.connection.fragment()
            if fragment.is_command or fragment.context_id != context.id:
                raise ProtocolViolation("a data set is interrupted by another message")
            yield fragment
            if fragment.is_last:
                return

    @contextmanager
    def receiving(self, context: Context, command: Command) -> Iterator[Iterator[Fragment]]:
        """The data set of a message, for a block that may fail halfway: the rest is then read past, so that the
        failure can still be answered."""
        fragments = self.data_set(context) if command.has_data_set else iter(())
        try:
            yield fragments
        except AssociationEnded:
            raise
        except PacsError:
            for _ in fragments:
                pass
            raise

    def identifier(self, context: Context, *, limit: int = _IDENTIFIER_LIMIT) -> bytes:
        """A data set that is small by nature, whole. ProtocolViolation if it has more bytes than that."""
        body = bytearray()
        for fragment in self.data_set(context):
            body += fragment.data
            if len(body) > limit:
                raise ProtocolViolation(f"an identifier of more than {limit} bytes")
        return bytes(body)

    def skip_data_set(self, context: Context, command: Command) -> None:
        """Read past the data set of a message that is not processed."""
        if command.has_data_set:
            for _ in self.data_set(context):
                pass

    def send(self, context: Context, command: Command, data: bytes | None = None) -> None:
        """Send a message."""
        command.CommandDataSetType = NO_DATA_SET if data is None else DATA_SET
        self.connection.send_message(context.id, commands.encode(command), data or b"")

    def receive_response(self, message_id: int) -> tuple[Context, Command]:
        """The response to a request of ours. Cancellations of the peer's own requests are remembered on the way."""
        while True:
            context, command = self.receive(idle=self.response_timeout)
            if command.CommandField == CommandField.C_CANCEL:
                self._note_cancel(command)
            elif command.is_response and command.MessageIDBeingRespondedTo == message_id:
                return context, command
            else:
                raise ProtocolViolation("a message that is not the response to the request that was sent")

    def cancelled(self, message_id: int) -> bool:
        """Whether a C-CANCEL for an operation of the peer's has arrived (PS3.7 9.3.2.3). Never waits for one."""
        while message_id not in self._cancelled and self.connection.readable():
            _, command = self.receive()
            if command.CommandField != CommandField.C_CANCEL:
                raise ProtocolViolation("a new request within an operation; no asynchronous operations were negotiated")
            self._note_cancel(command)
        return message_id in self._cancelled

    def _note_cancel(self, command: Command) -> None:
        if command.MessageIDBeingRespondedTo is not None:
            self._cancelled.add(command.MessageIDBeingRespondedTo)

    def forget_cancellations(self) -> None:
        """A new operation begins: cancellations of earlier ones mean nothing to it, though it may use their Message ID."""
        self._cancelled.clear()

    def release(self) -> None:
        """Release in order, as the requestor (PS3.8 7.2). The connection is closed, come what may."""
        with suppress(AssociationEnded):  # it is over, which is what was wanted
            self.connection.release()
        self.connection.close()
