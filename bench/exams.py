"""What a modality and a viewer do about one exam, as clients that are not ours: pynetdicom and DCMTK's storescu.

Each operation is timed as its client sees it, the opening of the association and the client's own work included.
"""

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from bench.storing import ENVIRONMENT, storescu_command
from pacs_core.model import Header
from tests.support import scu
from tests.support.dcmtk import Scp
from tests.support.part10 import dataset_bytes

MPPS = UID("1.2.840.10008.3.1.2.3.3")
PUSH, PUSH_INSTANCE = UID("1.2.840.10008.1.20.1"), UID("1.2.840.10008.1.20.1.1")
_SUCCESS = 0x0000


class Wrong(Exception):
    """An answer that a client cannot accept."""


@dataclass(frozen=True, slots=True)
class Exam:
    """A scheduled procedure step, and the study that it leads to.

    Attributes:
        station: the AE title of its modality.
        sop_class, series: of the study, which is one series.
        files: its instances, by SOPInstanceUID.
        outcome: how its performed step ends.
        transaction: of the request for commitment.
    """

    number: int
    station: str
    modality: str
    patient_id: str
    study: str
    series: str
    sop_class: str
    files: Mapping[str, Path]
    outcome: str
    transaction: str


@dataclass(slots=True)
class Diary:
    """What a client noted: milliseconds by operation, and when which request for commitment was made."""

    milliseconds: list[tuple[str, float]] = field(default_factory=list)
    asked: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def timing(self, operation: str) -> Iterator[None]:
        """Time a `with` block that ends well."""
        started = time.perf_counter()
        yield
        self.milliseconds.append((operation, (time.perf_counter() - started) * 1000))


def perform(scp: Scp, exam: Exam, diary: Diary) -> None:
    """The modality's part: worklist, MPPS, images, MPPS, commitment. Wrong."""
    with diary.timing("worklist C-FIND"):
        offered = _find(scp, exam.station, "worklist", _worklist_keys(exam))
    if exam.study not in {str(item.StudyInstanceUID) for item in offered}:
        raise Wrong(f"the worklist of {exam.station} does not offer exam {exam.number}")
    step = generate_uid()
    with diary.timing("MPPS N-CREATE"), scu.association(scp, (MPPS, ExplicitVRLittleEndian), calling=exam.station) as assoc:
        _expect_success(assoc.send_n_create(_begun(exam), MPPS, step)[0].get("Status"), "N-CREATE")
    with diary.timing(f"C-STORE of {len(exam.files)} {exam.modality}"):
        _store(scp, exam)
    with diary.timing("MPPS N-SET"), scu.association(scp, (MPPS, ExplicitVRLittleEndian), calling=exam.station) as assoc:
        _expect_success(assoc.send_n_set(_ended(exam), MPPS, step)[0].get("Status"), "N-SET")
    with diary.timing("commitment N-ACTION"), scu.association(scp, (PUSH, ExplicitVRLittleEndian), calling=exam.station) as assoc:
        diary.asked[exam.transaction] = time.time()
        _expect_success(assoc.send_n_action(_commitment(exam), 1, PUSH, PUSH_INSTANCE)[0].get("Status"), "N-ACTION")


def view(scp: Scp, exam: Exam, diary: Diary) -> None:
    """The viewer's part: the patient's studies, the images of one, and these images whole. Wrong."""
    with diary.timing("C-FIND of a patient's studies"):
        studies = _find(scp, "VIEWER", "study", _keys("STUDY", PatientID=exam.patient_id, StudyInstanceUID=""))
    if [str(study.StudyInstanceUID) for study in studies] != [exam.study]:
        raise Wrong(f"C-FIND shows {len(studies)} studies of the patient of exam {exam.number}, whose images were acknowledged")
    keys = _keys("IMAGE", StudyInstanceUID=exam.study, SeriesInstanceUID=exam.series, SOPInstanceUID="")
    with diary.timing("C-FIND of a study's images"):
        images = _find(scp, "VIEWER", "study", keys)
    if {str(image.SOPInstanceUID) for image in images} != set(exam.files):
        raise Wrong(f"C-FIND shows {len(images)} images of exam {exam.number}, of {len(exam.files)} that were acknowledged")
    with diary.timing(f"C-GET of {len(exam.files)} {exam.modality}"):
        received, final = scu.get_bytes(scp, _keys("STUDY", StudyInstanceUID=exam.study), [(exam.sop_class, ExplicitVRLittleEndian)])
    _expect_success(final.get("Status"), "C-GET")
    if received != {uid: dataset_bytes(path) for uid, path in exam.files.items()}:
        raise Wrong(f"what C-GET brings of exam {exam.number} is not what was sent")


def worklist_item(exam: Exam) -> Header:
    """Its attributes, flat."""
    return {
        "PatientID": exam.patient_id,
        "PatientName": f"Day^{exam.number}",
        "StudyInstanceUID": exam.study,
        "AccessionNumber": f"A{exam.number}",
        "ScheduledProcedureStepID": f"S{exam.number}",
        "ScheduledStationAETitle": exam.station,
        "Modality": exam.modality,
        "ScheduledProcedureStepStartDate": time.strftime("%Y%m%d"),
        "ScheduledProcedureStepStartTime": "080000",
    }


def _find(scp: Scp, calling: str, model: str, identifier: Dataset) -> Sequence[Dataset]:
    found, status = scu.find(scp, identifier, model=model, calling=calling)
    _expect_success(status, "C-FIND")
    return found


def _store(scp: Scp, exam: Exam) -> None:
    folder = next(iter(exam.files.values())).parent
    command = storescu_command(scp, folder, calling=exam.station)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(f"storescu of exam {exam.number} ends with {done.returncode}: {done.stderr[-300:]}")


def _expect_success(status: int | None, operation: str) -> None:
    """Success, and no warning either; without a status the association has ended."""
    if status != _SUCCESS:
        raise Wrong(f"{operation}: {'no answer' if status in (None, -1) else f'status {status:04X}'}")


def _keys(level: str, **values: str) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _worklist_keys(exam: Exam) -> Dataset:
    ds, step = Dataset(), Dataset()
    ds.PatientID = ds.PatientName = ds.StudyInstanceUID = ds.AccessionNumber = ""
    step.ScheduledStationAETitle, step.Modality = exam.station, exam.modality
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepID = time.strftime("%Y%m%d"), ""
    ds.ScheduledProcedureStepSequence = [step]
    return ds


def _begun(exam: Exam) -> Dataset:
    ds, scheduled = Dataset(), Dataset()
    scheduled.StudyInstanceUID, scheduled.AccessionNumber = exam.study, f"A{exam.number}"
    scheduled.ScheduledProcedureStepID = f"S{exam.number}"
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PatientName, ds.PatientID = f"Day^{exam.number}", exam.patient_id
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle, ds.Modality = f"P{exam.number}", exam.station, exam.modality
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = time.strftime("%Y%m%d"), time.strftime("%H%M%S")
    ds.PerformedProcedureStepStatus, ds.PerformedSeriesSequence = "IN PROGRESS", []
    return ds


def _ended(exam: Exam) -> Dataset:
    ds, series = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ProtocolName = exam.series, "Day"
    series.ReferencedImageSequence = [_reference(exam, uid) for uid in exam.files]
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = time.strftime("%Y%m%d"), time.strftime("%H%M%S")
    ds.PerformedProcedureStepStatus, ds.PerformedSeriesSequence = exam.outcome, [series]
    return ds


def _commitment(exam: Exam) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = exam.transaction
    ds.ReferencedSOPSequence = [_reference(exam, uid) for uid in exam.files]
    return ds


def _reference(exam: Exam, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = exam.sop_class, uid
    return item
