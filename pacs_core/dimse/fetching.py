"""Instances that a C-GET brings: written to a folder as DICOM files (PS3.10), or taken into the archive."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pacs_core.archive.ingest import Ingest
from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.dicom.sop_classes import common_storage_sop_classes
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command
from pacs_core.dimse.connection import AssociationEnded, Fragment
from pacs_core.dimse.negotiation import Context, Proposal
from pacs_core.errors import DataSetMismatch, PacsError, StorageUnavailable
from pacs_core.model import UID, Origin, StoreRequest, parse_uid

# Lossless ones that every toolkit reads, explicit first; then what is common in archives.
_TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.5",
)


def storage_proposals(maximum: int) -> list[Proposal]:
    """Presentation contexts in which the peer may send us instances, the most common SOP classes first."""
    return [Proposal(uid, _TRANSFER_SYNTAXES, scp_role=True) for uid in common_storage_sop_classes()[:maximum]]


class Receiver(ABC):
    """Takes the C-STORE requests of a C-GET: answers Success once an instance is kept."""

    def __call__(self, assoc: Association, context: Context, command: Command) -> None:
        """Keep one instance and answer for it."""
        try:
            with assoc.receiving(context, command) as fragments:
                self._keep(_request(assoc, context, command), fragments)
        except AssociationEnded:
            raise
        except PacsError as exc:
            assoc.send(context, command.response(exc.dimse_status, error_comment=str(exc)))
        else:
            assoc.send(context, command.response(0))

    @abstractmethod
    def _keep(self, request: StoreRequest, fragments: Iterator[Fragment]) -> None:
        """Return when it is durable. PacsError if it cannot be kept."""


@dataclass(frozen=True, slots=True)
class IngestReceiver(Receiver):
    """Takes the instances into the archive, as if their peer had sent them."""

    ingest: Ingest

    def _keep(self, request: StoreRequest, fragments: Iterator[Fragment]) -> None:
        with self.ingest.begin(request) as ingestion:
            for fragment in fragments:
                ingestion.write(fragment.data)
            ingestion.finish()


@dataclass(slots=True)
class FolderReceiver(Receiver):
    """Writes the instances to files.

    Attributes:
        folder: where the files go, each named by its SOPInstanceUID; an existing one is replaced.
        received: how many were written.
    """

    folder: Path
    received: int = 0

    def _keep(self, request: StoreRequest, fragments: Iterator[Fragment]) -> None:
        part = self.folder / f".{request.SOPInstanceUID}.part"
        try:
            with part.open("wb") as file:
                file.write(build_file_meta(request))
                for fragment in fragments:
                    file.write(fragment.data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / f"{request.SOPInstanceUID}.dcm")
        except OSError as exc:
            raise StorageUnavailable(f"cannot write to {self.folder}: {exc.strerror}") from exc
        finally:
            part.unlink(missing_ok=True)
        self.received += 1


def _request(assoc: Association, context: Context, command: Command) -> StoreRequest:
    instance = parse_uid(command.AffectedSOPInstanceUID or "", name="AffectedSOPInstanceUID")
    if not command.has_data_set:
        raise DataSetMismatch("a C-STORE without a data set")
    origin = Origin(assoc.agreement.called_ae, assoc.agreement.calling_ae, datetime.now(UTC))
    return StoreRequest(UID(context.abstract_syntax), instance, UID(context.transfer_syntax), origin)
