"""Unified procedure steps as their creators push them, and as their performers end them."""

from pydicom import Dataset

PERFORMED = "UnifiedProcedureStepPerformedProcedureSequence"


def code(value: str, meaning: str = "Something", scheme: str = "99TEST") -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def pushed(*, patient_id: str = "P1", label: str = "Contour", station: str = "", **attributes: object) -> Dataset:
    """The attributes of an N-CREATE, for a station if one is named."""
    ds, request = Dataset(), Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ProcedureStepState, ds.TransactionUID = "SCHEDULED", ""
    ds.ScheduledProcedureStepPriority, ds.InputReadinessState = "MEDIUM", "READY"
    ds.ProcedureStepLabel, ds.ScheduledProcedureStepStartDateTime = label, "20261201083000"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Müller^Jürgen", patient_id, "", "O"
    ds.ScheduledStationNameCodeSequence = [code(station)] if station else []
    ds.ScheduledWorkitemCodeSequence, ds.InputInformationSequence = [code("121726", "RT Treatment", "DCM")], []
    request.StudyInstanceUID, request.AccessionNumber, request.RequestedProcedureID = "1.2.3", "A1", "R1"
    ds.ReferencedRequestSequence = [request]
    ds.ProcedureStepProgressInformationSequence, ds.UnifiedProcedureStepPerformedProcedureSequence = [], []
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def action(**attributes: object) -> Dataset:
    """The information of an N-ACTION."""
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def progress(percent: str, description: str = "", transaction: str = "") -> Dataset:
    """The attributes of an N-SET that tells how far it has come."""
    ds, item = Dataset(), Dataset()
    item.ProcedureStepProgress, item.ProcedureStepProgressDescription = percent, description
    ds.ProcedureStepProgressInformationSequence = [item]
    if transaction:
        ds.TransactionUID = transaction
    return ds


def performed(transaction: str = "") -> Dataset:
    """The attributes of an N-SET that tells all that a step needs to be COMPLETED."""
    ds, item = Dataset(), Dataset()
    item.PerformedStationNameCodeSequence, item.PerformedWorkitemCodeSequence = [code("LINAC1")], [code("121726", "RT Treatment", "DCM")]
    item.PerformedProcedureStepStartDateTime, item.PerformedProcedureStepEndDateTime = "20261201083100", "20261201084500"
    item.OutputInformationSequence = []
    setattr(ds, PERFORMED, [item])
    if transaction:
        ds.TransactionUID = transaction
    return ds
