"""Verification SCP: C-ECHO (PS3.4 annex A, PS3.7 9.1.5)."""

from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import SUCCESS, UNCOMPRESSED, UNRECOGNIZED_OPERATION, Service

VERIFICATION = "1.2.840.10008.1.1"


class Verification(Service):
    """Answers C-ECHO."""

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """Verification, in every uncompressed transfer syntax (it has no data sets)."""
        return UNCOMPRESSED if abstract_syntax == VERIFICATION else frozenset()

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """Success, to a C-ECHO."""
        assoc.skip_data_set(context, command)
        echo = command.CommandField == CommandField.C_ECHO
        assoc.send(context, command.response(SUCCESS if echo else UNRECOGNIZED_OPERATION))
