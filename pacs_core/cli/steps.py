"""mpps: performed procedure steps by hand, as a modality tells of them."""

import json
from collections.abc import Sequence
from datetime import datetime

from pydicom import Dataset

from pacs_core.cli import output
from pacs_core.cli.network import Target
from pacs_core.dicom.headers import header_of
from pacs_core.dimse import client
from pacs_core.dimse.command import CommandField
from pacs_core.dimse.negotiation import LITTLE_ENDIAN, Proposal
from pacs_core.dimse.services.performed_step import MPPS, MPPS_RETRIEVE
from pacs_core.model import new_uid
from pacs_core.workflow.performed_step import StepStatus


def create(to: Target, *, patient_id: str, name: str, accession: str, study: str, step_id: str, station: str, modality: str) -> None:
    """N-CREATE of a step that begins now. Prints its SOPInstanceUID."""
    now, ds, scheduled = datetime.now(), Dataset(), Dataset()  # noqa: DTZ005 local time, as the Standard has it
    scheduled.StudyInstanceUID = study or new_uid()
    scheduled.AccessionNumber, scheduled.ScheduledProcedureStepID = accession, step_id
    scheduled.ReferencedStudySequence, scheduled.ScheduledProtocolCodeSequence = [], []
    scheduled.RequestedProcedureID = scheduled.RequestedProcedureDescription = scheduled.ScheduledProcedureStepDescription = ""
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = name, patient_id, "", ""
    ds.ReferencedPatientSequence, ds.ProcedureCodeSequence, ds.PerformedProtocolCodeSequence, ds.PerformedSeriesSequence = [], [], [], []
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle = f"P{now:%y%m%d%H%M%S}", station or to.caller.ae_title
    ds.PerformedStationName = ds.PerformedLocation = ds.PerformedProcedureStepDescription = ds.PerformedProcedureTypeDescription = ""
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "", ""
    ds.PerformedProcedureStepStatus, ds.Modality, ds.StudyID = StepStatus.IN_PROGRESS, modality, ""
    uid = new_uid()
    _perform(to, MPPS, CommandField.N_CREATE, uid, ds)
    output.line(uid)


def finish(to: Target, uid: str, *, status: StepStatus, series: Sequence[str], protocol: str) -> None:
    """N-SET of a step that ends now, with the series that it led to."""
    now, ds = datetime.now(), Dataset()  # noqa: DTZ005 local time, as the Standard has it
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    ds.PerformedProcedureStepStatus = status
    ds.PerformedSeriesSequence = [_series(each, protocol) for each in series]
    _perform(to, MPPS, CommandField.N_SET, uid, ds)
    output.line(f"{uid} is {status}")


def get(to: Target, uid: str) -> None:
    """N-GET; all attributes, as JSON with keywords."""
    ds = _perform(to, MPPS_RETRIEVE, CommandField.N_GET, uid, None)
    output.line(json.dumps(header_of(ds), indent=2, ensure_ascii=False))


def _series(uid: str, protocol: str) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID, item.ProtocolName = uid, protocol
    item.PerformingPhysicianName = item.OperatorsName = item.SeriesDescription = item.RetrieveAETitle = ""
    item.ReferencedImageSequence, item.ReferencedNonImageCompositeSOPInstanceSequence = [], []
    return item


def _perform(to: Target, sop_class: str, operation: CommandField, uid: str, ds: Dataset | None) -> Dataset:
    with to.association([Proposal(sop_class, LITTLE_ENDIAN)]) as assoc:
        answer, attributes = client.normalized(assoc, MPPS, operation, uid, ds, context_class=sop_class)
        client.check_final(assoc, answer)
    return attributes
