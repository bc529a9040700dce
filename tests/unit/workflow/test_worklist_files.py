"""Items as people write them down; a bad one is told and keeps none of the others out."""

from io import BytesIO

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian

from pacs_core.errors import RequestError
from pacs_core.model import Header
from pacs_core.workflow.worklist_files import Found, read_csv, read_json, read_wl


def shown(found: list[Found]) -> list[tuple[str, Header | str]]:
    return [(where, str(each) if isinstance(each, RequestError) else each) for where, each in found]


def test_json_with_keywords() -> None:
    content = """[
        {"PatientID": "P1", "PatientName": "Müller^Jörg", "ScheduledStationAETitle": ["CT1", "CT2"], "PatientWeight": 70.5,
         "PatientSex": null, "ScheduledProcedureStepSequence": [{"Modality": "CT"}]},
        {"PatientIdentity": "x"},
        {"PatientID": {"a": 1}},
        7
    ]""".encode()
    first, *bad = shown(list(read_json(content)))
    assert first == (
        "item 1",
        {
            "PatientID": "P1",
            "PatientName": "Müller^Jörg",
            "ScheduledStationAETitle": "CT1\\CT2",
            "PatientWeight": "70.5",
            "PatientSex": "",
            "ScheduledProcedureStepSequence": [{"Modality": "CT"}],
        },
    )
    assert [where for where, _ in bad] == ["item 2", "item 3", "item 4"]
    assert "no DICOM keyword" in str(bad[0][1])
    assert "no sequence" in str(bad[1][1])


def item() -> Dataset:
    ds, step = Dataset(), Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientID, ds.PatientName = "P1", "Müller^Jörg"
    step.Modality, step.ScheduledStationAETitle = "CT", "CT1"
    ds.ScheduledProcedureStepSequence = [step]
    return ds


AS_HEADER: Header = {
    "SpecificCharacterSet": "ISO_IR 192",
    "PatientID": "P1",
    "PatientName": "Müller^Jörg",
    "ScheduledProcedureStepSequence": [{"Modality": "CT", "ScheduledStationAETitle": "CT1"}],
}


def test_the_dicom_json_model() -> None:
    assert list(read_json(item().to_json().encode())) == [("item 1", AS_HEADER)]
    ((_, error),) = list(read_json(b'{"00100010": {"vr": "XX", "Value": 5}}'))
    assert isinstance(error, RequestError)


@pytest.mark.parametrize("with_header", [True, False])
def test_wl_files(with_header: bool) -> None:
    stream = BytesIO()
    ds = item()
    if with_header:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.276.0.7230010.3.1.0.1"), UID("1.2.3")
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(stream, enforce_file_format=True)
    else:
        ds.save_as(stream, implicit_vr=True, little_endian=True)
    assert list(read_wl(stream.getvalue())) == [("file", AS_HEADER)]


@pytest.mark.parametrize("content", [b"", b"hello world, this is no DICOM at all" * 10])
def test_files_that_are_none(content: bytes) -> None:
    ((where, error),) = list(read_wl(content))
    assert where == "file"
    assert isinstance(error, RequestError)


@pytest.mark.parametrize("separator", [",", ";"])
def test_csv(separator: str) -> None:
    lines = ["PatientID,PatientName,Modality", "P1,Müller^Jörg,CT", "P2,x", "P3,y,MR", "P4,z,US,more"]
    found = shown(list(read_csv(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(",", separator).encode())))
    assert found[0] == ("line 2", {"PatientID": "P1", "PatientName": "Müller^Jörg", "Modality": "CT"})
    assert found[2] == ("line 4", {"PatientID": "P3", "PatientName": "y", "Modality": "MR"})
    assert [where for where, each in found if isinstance(each, str)] == ["line 3", "line 5"]


@pytest.mark.parametrize(("content", "told"), [(b"PatientID\n\xfcx\n", "UTF-8"), (b'PatientID\n"abc', "CSV"), (b"Nobody\nx\n", "keyword")])
def test_csv_that_is_none(content: bytes, told: str) -> None:
    ((_, error),) = list(read_csv(content))
    assert isinstance(error, RequestError)
    assert told in str(error)


def test_json_that_is_none() -> None:
    ((where, error),) = list(read_json(b"{"))
    assert (where, isinstance(error, RequestError)) == ("file", True)
