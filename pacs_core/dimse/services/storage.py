"""Storage SCP: C-STORE (PS3.4 annex B, PS3.7 9.1.1). Success is sent when the instance is durable, not before."""

from datetime import UTC, datetime

import structlog

from pacs_core.archive.ingest import Ingest
from pacs_core.dicom.sop_classes import is_storable, transfer_syntaxes
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import AssociationEnded
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import SUCCESS, Service, refuse
from pacs_core.errors import DataSetMismatch, PacsError
from pacs_core.model import UID, Origin, Permission, StoreRequest
from pacs_core.telemetry.timing import Laps, Timings

log = structlog.get_logger(__name__)


class Storage(Service):
    """Stores what arrives.

    Args:
        ingest: the durable path.
        timings: where the phases of each C-STORE are recorded.
        private: also accept SOP classes that the Standard does not define.
    """

    permission = Permission.STORE

    def __init__(self, ingest: Ingest, timings: Timings, *, private: bool) -> None:
        self._ingest = ingest
        self._timings = timings
        self._private = private

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """Every storage SOP class, in every transfer syntax."""
        return transfer_syntaxes() if is_storable(abstract_syntax, private=self._private) else frozenset()

    def peer_may_be_scp(self, abstract_syntax: str) -> bool:
        """Of anything that is stored, so that C-GET can send it there: also of private SOP classes that we hold from earlier."""
        return is_storable(abstract_syntax, private=True)

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """Receive one instance and answer for it."""
        if command.CommandField != CommandField.C_STORE:
            refuse(assoc, context, command)
            return
        laps = self._timings.laps("C-STORE")
        try:
            self._receive(assoc, context, command, laps)
        except AssociationEnded:
            raise
        except PacsError as exc:
            log.warning("store_refused", association=assoc.id, SOPInstanceUID=command.AffectedSOPInstanceUID, reason=str(exc))
            assoc.send(context, command.response(exc.dimse_status, error_comment=str(exc)))
        else:
            assoc.send(context, command.response(SUCCESS))
            laps("acknowledge")

    def _receive(self, assoc: Association, context: Context, command: Command, laps: Laps) -> None:
        with assoc.receiving(context, command) as fragments, self._ingest.begin(_request(assoc, context, command)) as ingestion:
            for fragment in fragments:
                ingestion.write(fragment.data)
            laps("receive")
            ingestion.finish()
            laps("sync")


def _request(assoc: Association, context: Context, command: Command) -> StoreRequest:
    if not command.AffectedSOPInstanceUID or not command.has_data_set:
        raise DataSetMismatch("a C-STORE without a SOP Instance UID or without a data set")
    if command.AffectedSOPClassUID != context.abstract_syntax:
        raise DataSetMismatch(f"SOP class {command.AffectedSOPClassUID} was sent in a presentation context for {context.abstract_syntax}")
    origin = Origin(assoc.agreement.calling_ae, assoc.agreement.called_ae, datetime.now(UTC))
    return StoreRequest(UID(command.AffectedSOPClassUID), UID(command.AffectedSOPInstanceUID), UID(context.transfer_syntax), origin)
