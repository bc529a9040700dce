"""Which attributes the archive indexes, per level. The one registry behind header scan, index schema and C-FIND.

The keys that PS3.4 C.6.1.1 and C.6.2.1 require or allow and that viewers and worklists use. Every one of them can be
matched and returned by C-FIND; the scalar ones are also columns of the index tables.
"""

from collections.abc import Mapping

from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs_core.model import Level

INDEXED: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: (
        "PatientID",
        "IssuerOfPatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientBirthTime",
        "PatientSex",
        "OtherPatientIDs",
        "OtherPatientNames",
        "EthnicGroup",
        "PatientComments",
        "PatientSpeciesDescription",
        "OtherPatientIDsSequence",
    ),
    Level.STUDY: (
        "StudyInstanceUID",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "IssuerOfAccessionNumberSequence",
        "StudyDescription",
        "ReferringPhysicianName",
        "NameOfPhysiciansReadingStudy",
        "PhysiciansOfRecord",
        "AdmittingDiagnosesDescription",
        "InstitutionName",
        "PatientAge",
        "PatientSize",
        "PatientWeight",
        "Occupation",
        "AdditionalPatientHistory",
        "ProcedureCodeSequence",
        "ReferencedStudySequence",
        "TimezoneOffsetFromUTC",
    ),
    Level.SERIES: (
        "SeriesInstanceUID",
        "Modality",
        "SeriesNumber",
        "SeriesDate",
        "SeriesTime",
        "SeriesDescription",
        "BodyPartExamined",
        "Laterality",
        "PatientPosition",
        "ProtocolName",
        "OperatorsName",
        "PerformingPhysicianName",
        "Manufacturer",
        "ManufacturerModelName",
        "StationName",
        "InstitutionalDepartmentName",
        "FrameOfReferenceUID",
        "PerformedProcedureStepID",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "PerformedProcedureStepDescription",
        "RequestAttributesSequence",
    ),
    Level.IMAGE: (
        "SOPInstanceUID",
        "SOPClassUID",
        "InstanceNumber",
        "InstanceCreationDate",
        "InstanceCreationTime",
        "AcquisitionNumber",
        "AcquisitionDate",
        "AcquisitionTime",
        "AcquisitionDateTime",
        "ContentDate",
        "ContentTime",
        "ContentLabel",
        "ContentDescription",
        "ImageType",
        "ImageComments",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "PhotometricInterpretation",
        "CompletionFlag",
        "VerificationFlag",
        "ConceptNameCodeSequence",
    ),
}

# Computed from the index when a query asks for them (PS3.4 C.3.4).
COMPUTED: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: (
        "NumberOfPatientRelatedStudies",
        "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedInstances",
    ),
    Level.STUDY: (
        "ModalitiesInStudy",
        "SOPClassesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    Level.SERIES: ("NumberOfSeriesRelatedInstances",),
    Level.IMAGE: (),
}

LEVEL_OF: Mapping[str, Level] = {
    keyword: level for table in (INDEXED, COMPUTED) for level, keywords in table.items() for keyword in keywords
}


def vr(keyword: str) -> str:
    """The value representation of an indexed or computed attribute (PS3.6)."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return dictionary_VR(tag)
