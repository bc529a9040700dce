"""A remote archive as a source of priors: C-FIND, and C-MOVE to ourselves or C-GET (PS3.4 C.4), Study Root."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date

from pydicom import Dataset

from pacs_core.dicom.headers import header_of
from pacs_core.dimse import client
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.command import Command
from pacs_core.dimse.fetching import IngestReceiver, storage_proposals
from pacs_core.dimse.information_models import Operation, sop_class
from pacs_core.dimse.negotiation import LITTLE_ENDIAN, Proposal
from pacs_core.dimse.request_form import MAXIMUM_CONTEXTS
from pacs_core.errors import PeerUnavailable
from pacs_core.model import UID, Header, Level, Peer, PriorRequest
from pacs_core.workflow.prefetch import KnownStudy, studies_of

_FIND, _MOVE, _GET = (sop_class("study", operation) for operation in (Operation.FIND, Operation.MOVE, Operation.GET))
_STUDY_KEYS = ("StudyInstanceUID", "IssuerOfPatientID", "StudyDate", "ModalitiesInStudy", "NumberOfStudyRelatedInstances")
_OUT_OF_RESOURCES = 0xA700  # PS3.4 C.4.2.1.5: A7xx
_UNKNOWN_DESTINATION = 0xA801


class NotSent(PeerUnavailable):
    """The source will not send it, now or later."""

    retryable = False


class RemoteArchive:
    """prefetching.PriorSource. Thread-safe: each call has an association of its own.

    Args:
        caller: opens associations, in the name of the archive.
        peer: the source.
        receiver: takes what C-GET brings; None where C-MOVE is used instead, for which the source must know our AE title.
    """

    def __init__(self, caller: Caller, peer: Peer, receiver: IngestReceiver | None) -> None:
        self._caller = caller
        self._peer = peer
        self._receiver = receiver

    def find(self, request: PriorRequest, since: date) -> Sequence[KnownStudy]:
        """See PriorSource. The series are asked for only where a body part is wanted, as no study has one."""
        with self._association([Proposal(_FIND, LITTLE_ENDIAN)]) as assoc:
            studies = self._ask(assoc, Level.STUDY, _STUDY_KEYS, request, StudyDate=f"{since:%Y%m%d}-{request.day:%Y%m%d}")
            if request.BodyPartExamined:
                studies = [self._with_body_part(assoc, study) for study in studies]
        return studies_of(request, studies)

    def fetch(self, study: UID, alive: Callable[[], object]) -> int:
        """See PriorSource."""
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
        final = Command()
        with self._association(self._proposals()) as assoc:
            for response in self._responses(assoc, identifier):
                final = response
                alive()
        return self._completed(final)

    def _proposals(self) -> Sequence[Proposal]:
        if self._receiver is None:
            return [Proposal(_MOVE, LITTLE_ENDIAN)]
        return [Proposal(_GET, LITTLE_ENDIAN), *storage_proposals(MAXIMUM_CONTEXTS - 1)]

    def _responses(self, assoc: Association, identifier: Dataset) -> Iterator[Command]:
        if self._receiver is None:
            return client.move(assoc, _MOVE, identifier, self._caller.ae_title)
        return client.get(assoc, _GET, identifier, self._receiver)

    def _completed(self, final: Command) -> int:
        """How many instances came; an error unless none failed."""
        completed = (final.NumberOfCompletedSuboperations or 0) + (final.NumberOfWarningSuboperations or 0)
        failed, status, source = final.NumberOfFailedSuboperations or 0, final.Status or 0, self._peer.ae_title
        if status == 0 or (status == 0xB000 and not failed):
            return completed
        comment = f": {final.ErrorComment}" if final.ErrorComment else ""
        if status == _UNKNOWN_DESTINATION:
            raise NotSent(f"{source} does not know {self._caller.ae_title}: enter this archive there as a destination (status A801)")
        told = f"{source} sent {completed} instances and failed with {failed}, status {status:04X}{comment}"
        if status == 0xB000 or status & 0xFF00 == _OUT_OF_RESOURCES:
            raise PeerUnavailable(told)
        raise NotSent(told)

    def _with_body_part(self, assoc: Association, study: Header) -> Header:
        uid = str(study.get("StudyInstanceUID", ""))
        series = self._ask(assoc, Level.SERIES, ("SeriesInstanceUID", "BodyPartExamined"), None, StudyInstanceUID=uid) if uid else ()
        parts = {str(each.get("BodyPartExamined", "")) for each in series}
        return {**study, "BodyPartExamined": "\\".join(sorted(parts - {""}))}

    def _ask(
        self, assoc: Association, level: Level, returned: Sequence[str], request: PriorRequest | None, **keys: str
    ) -> Sequence[Header]:
        ds = Dataset()
        ds.QueryRetrieveLevel = str(level)
        if request is not None:
            keys["PatientID"] = request.PatientID
            if not request.PatientID.isascii():
                ds.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in {**dict.fromkeys(returned, ""), **keys}.items():
            setattr(ds, keyword, value)
        return [header_of(match) for match in client.find(assoc, _FIND, ds)]

    @contextmanager
    def _association(self, proposals: Sequence[Proposal]) -> Iterator[Association]:
        assoc = self._caller.associate(self._peer, proposals)
        try:
            yield assoc
        except BaseException:
            assoc.connection.abort()  # in the middle of an operation there is nothing to release
            raise
        assoc.release()
