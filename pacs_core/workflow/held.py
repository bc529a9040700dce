"""What is here of a patient, from our own index."""

from collections.abc import Mapping, Sequence
from datetime import date

from pacs_core.archive.queries import Queries
from pacs_core.model import UID, Level, PriorRequest, Query
from pacs_core.workflow.prefetch import KnownStudy, studies_of

# The issuer is compared in the answers: a key would rule out those that name none.
_RETURNED = ("StudyInstanceUID", "IssuerOfPatientID", "Modality", "BodyPartExamined", "NumberOfStudyRelatedInstances")


class IndexedStudies:
    """prefetching.HeldStudies, asked of the index. Thread-safe."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def of_patient(self, request: PriorRequest, since: date) -> Sequence[KnownStudy]:
        """See HeldStudies."""
        keys = {"PatientID": request.PatientID, "StudyDate": f"{since:%Y%m%d}-{request.day:%Y%m%d}"}
        return studies_of(request, self._queries.find(Query(Level.SERIES, {**dict.fromkeys(_RETURNED, ""), **keys})))

    def instances(self, studies: Sequence[UID]) -> Mapping[UID, int]:
        """See HeldStudies."""
        if not studies:
            return {}
        query = Query(Level.STUDY, {"StudyInstanceUID": "\\".join(studies), "NumberOfStudyRelatedInstances": ""})
        return {
            UID(str(found["StudyInstanceUID"])): int(str(found["NumberOfStudyRelatedInstances"])) for found in self._queries.find(query)
        }
