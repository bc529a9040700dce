"""pynetdicom as a client, for what the tools cannot be made to do: exact identifiers, exact bytes, negotiation."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time from the Standard's tables
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from tests.support.dcmtk import Scp
from tests.support.part10 import dataset_bytes, transfer_syntax
from tests.support.raw import raw_association

FIND = {
    "patient": PatientRootQueryRetrieveInformationModelFind,
    "study": StudyRootQueryRetrieveInformationModelFind,
    "worklist": ModalityWorklistInformationFind,
}
MOVE = {"patient": PatientRootQueryRetrieveInformationModelMove, "study": StudyRootQueryRetrieveInformationModelMove}
GET = {"patient": PatientRootQueryRetrieveInformationModelGet, "study": StudyRootQueryRetrieveInformationModelGet}


class _Checkpoint(threading.Event):
    """What makes the reactor of an association rest while a client waits for its answer.

    pynetdicom's own lets a client go on while the reactor is only about to rest, or is waking up from the request before; the reactor then
    takes the answer as a request of the peer's, and the client never sees it. Event reports are served in threads of their own, which
    declare the reactor awake when they end, and answer whether a release was requested meanwhile or not.
    """

    def __init__(self, assoc: Association) -> None:
        super().__init__()
        self._assoc = assoc
        self._turn = threading.Lock()
        self._is_resting = False
        self._serve = assoc._serve_request
        self.report = threading.Lock()
        """Held by whoever serves an event report, or lets none be served."""
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Called by the reactor: rest until somebody has set it and nobody has cleared it again."""
        while not self._may_go_on():
            super().wait(timeout)
        return True

    def clear(self) -> None:
        """Called by the client: return when the reactor rests, or is no more."""
        with self._turn:
            super().clear()
        while self._assoc.is_alive() and not self._is_resting:
            time.sleep(0.001)

    def serve(self, message: Any, context_id: int) -> None:
        """Called by the reactor, or by the thread of an event report."""
        if threading.current_thread() is self._assoc:
            self._serve(message, context_id)
            return
        with self.report:
            self._serve(message, context_id)
            with self._turn:
                self._assoc._is_paused = self._is_resting

    def _may_go_on(self) -> bool:
        with self._turn:
            self._is_resting = self._assoc._is_paused = not self.is_set()
            return not self._is_resting


@contextmanager
def released(assoc: Association) -> Iterator[None]:
    """For a `with` block an association that has been accepted, whose client loses no answer; released at its end."""
    assert assoc.is_established, "the association was not accepted"
    checkpoint = _Checkpoint(assoc)
    assoc._reactor_checkpoint, assoc._serve_request = checkpoint, checkpoint.serve  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        with checkpoint.report:
            if assoc.is_established:
                assoc.release()


@contextmanager
def association(
    scp: Scp, *contexts: tuple[str, str], calling: str = "TESTSCU", called: str | None = None, combined_datetime: bool = False
) -> Iterator[Association]:
    """An accepted association that proposes each (abstract syntax, transfer syntax); released at the end."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    for abstract_syntax, syntax in contexts:
        ae.add_requested_context(abstract_syntax, syntax)
    negotiation = []
    if combined_datetime:
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid = UID(contexts[0][0])
        item.service_class_application_information = b"\x00\x01"  # relational no, combined date-time yes: PS3.4 C.5.1.1
        negotiation.append(item)
    assoc = ae.associate(scp.host, scp.port, ae_title=called or scp.ae_title, ext_neg=negotiation)  # type: ignore[arg-type]  # list is invariant
    with released(assoc):
        yield assoc


def store_bytes(
    scp: Scp, data: bytes, *, sop_class: str, sop_instance: str, syntax: str = ExplicitVRLittleEndian, calling: str = "TESTSCU"
) -> int:
    """C-STORE of any bytes as the data set; the status, or -1 if the archive ended the association instead."""
    with raw_association(scp, sop_class, syntax, calling=calling) as assoc:
        status = assoc.store(data, sop_class=sop_class, sop_instance=sop_instance)
        if status >= 0:
            assoc.release()
    return status


def store_file(scp: Scp, path: Path, syntax: UID | None = None) -> int:
    """C-STORE of a file's data set, byte for byte. `syntax` where the file has no file meta to name it."""
    ds = dcmread(path, force=True, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
    return store_bytes(
        scp, dataset_bytes(path), sop_class=ds.SOPClassUID, sop_instance=ds.SOPInstanceUID, syntax=syntax or transfer_syntax(path)
    )


def find(
    scp: Scp, identifier: Dataset, *, model: str = "study", calling: str = "TESTSCU", combined_datetime: bool = False
) -> tuple[list[Dataset], int]:
    """C-FIND: the pending identifiers and the final status."""
    matches: list[Dataset] = []
    status = -1
    context = (FIND[model], ExplicitVRLittleEndian)
    with association(scp, context, calling=calling, combined_datetime=combined_datetime) as assoc:
        for response, match in assoc.send_c_find(identifier, FIND[model]):
            status = int(response.Status) if "Status" in response else -1
            if match is not None:
                matches.append(match)
    return matches, status


def get_bytes(
    scp: Scp, identifier: Dataset, contexts: Sequence[tuple[str, str]], *, model: str = "study"
) -> tuple[dict[str, bytes], Dataset]:
    """C-GET: the data sets as received, by SOPInstanceUID, and the final response."""
    received: dict[str, bytes] = {}

    def keep(event: evt.Event) -> int:
        request = event.request
        received[str(request.AffectedSOPInstanceUID)] = request.DataSet.getvalue()  # type: ignore[union-attr]
        return 0x0000

    ae = AE(ae_title="TESTSCU")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.add_requested_context(GET[model], ExplicitVRLittleEndian)
    for abstract_syntax, syntax in contexts:
        ae.add_requested_context(abstract_syntax, syntax)
    roles = [build_role(abstract_syntax, scp_role=True) for abstract_syntax in {each for each, _ in contexts}]
    assoc = ae.associate(scp.host, scp.port, ae_title=scp.ae_title, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, keep)])  # type: ignore[arg-type]
    assert assoc.is_established, "the association was not accepted"
    final = Dataset()
    for response, _ in assoc.send_c_get(identifier, GET[model]):
        final = response
    assoc.release()
    return received, final
