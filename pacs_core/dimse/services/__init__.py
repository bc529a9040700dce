"""The DIMSE services as SCP, one module each. The listener asks every service what it supports, and routes to it."""

from typing import ClassVar, Protocol

from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command
from pacs_core.dimse.negotiation import Context
from pacs_core.model import Permission

UNCOMPRESSED = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})

SUCCESS, CANCEL, PENDING, PENDING_WITH_UNSUPPORTED_KEYS = 0x0000, 0xFE00, 0xFF00, 0xFF01
UNRECOGNIZED_OPERATION, NOT_AUTHORIZED, NO_SUCH_SOP_CLASS = 0x0211, 0x0124, 0x0118


def refuse(
    assoc: Association, context: Context, command: Command, *, status: int = UNRECOGNIZED_OPERATION, comment: str | None = None
) -> None:
    """Answer a request that is not performed, when its data set has been read past."""
    assoc.skip_data_set(context, command)
    assoc.send(context, command.response(status, error_comment=comment))


class Service(Protocol):
    """One service class, used by many associations at once. What it keeps of one between messages ends with it.

    As SCP, unless the peer may be: then requests also come on contexts in which we are SCU (`Context.as_scp` tells).

    Attributes:
        permission: what a peer needs to ask for anything here; None where nothing.
    """

    permission: ClassVar[Permission | None] = None

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """The transfer syntaxes that are accepted for an abstract syntax; empty if it is not this service's."""

    def peer_may_be_scp(self, abstract_syntax: str) -> bool:  # noqa: ARG002 - most services have one role only
        """Whether the requestor may take the SCP role of one of its abstract syntaxes (PS3.7 D.3.3.4)."""
        return False

    def extended(self, abstract_syntax: str, proposed: bytes) -> bytes | None:  # noqa: ARG002 - most services have no options
        """What is accepted of the options that an extended negotiation item proposes (PS3.7 D.3.3.5); None where it has no answer."""
        return None

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """Answer one request: read its data set to the end, send its final response.

        Raises AssociationEnded when there is nobody left to answer; any other exception ends the association too.
        """

    def ended(self, assoc: Association) -> None:  # noqa: ARG002 - most services keep nothing
        """An association is over, on its own thread, in whatever way: what is kept of it goes. Never raises."""
        return
