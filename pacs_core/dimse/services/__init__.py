"""The DIMSE services as SCP, one module each. The listener asks every service what it supports, and routes to it."""

from typing import Protocol

from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command
from pacs_core.dimse.negotiation import Context

UNCOMPRESSED = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})

SUCCESS, CANCEL, PENDING, PENDING_WITH_UNSUPPORTED_KEYS = 0x0000, 0xFE00, 0xFF00, 0xFF01
UNRECOGNIZED_OPERATION = 0x0211


class Service(Protocol):
    """One service class as SCP. Stateless between messages; used by many associations at once."""

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """The transfer syntaxes that are accepted for an abstract syntax; empty if it is not this service's."""

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """Answer one request: read its data set to the end, send its final response.

        Raises AssociationEnded when there is nobody left to answer; any other exception ends the association too.
        """
