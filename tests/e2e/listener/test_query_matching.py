"""C-FIND as PS3.4 C.2.2.2 has it, asked by real clients of a real index."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, config
from pydicom.uid import generate_uid

from tests.support import dcmtk, scu
from tests.support.archive import Listener
from tests.support.processes import assert_succeeded
from tests.support.synthetic import NAMES_BY_CHARSET, Study


def _code(value: str, meaning: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, "L", meaning
    return ds


def _request(identifier: str) -> Dataset:
    ds = Dataset()
    ds.RequestedProcedureID, ds.ScheduledProcedureStepID = identifier, "S1"
    return ds


# Six studies that differ in what the tests ask for. Every PatientID begins with one random prefix.
PREFIX = f"Q{generate_uid()[-8:]}"
STUDIES = {
    "thorax": Study(
        "CT",
        series=2,
        instances=3,
        patient_id=f"{PREFIX}A",
        attributes={
            "PatientName": "Smith^John",
            "StudyDate": "20200101",
            "StudyTime": "080000",
            "StudyDescription": "Thorax",
            "AccessionNumber": f"{PREFIX}1",
            "ProcedureCodeSequence": [_code("T1", "CT thorax")],
            "RequestAttributesSequence": [_request("RP-1")],
        },
    ),
    "thorax late": Study(
        "MR",
        instances=1,
        patient_id=f"{PREFIX}A",
        attributes={"PatientName": "Smith^John", "StudyDate": "20200102", "StudyTime": "235959.5", "StudyDescription": "Thorax+Abdomen"},
    ),
    "abdomen": Study(
        "CT",
        instances=1,
        patient_id=f"{PREFIX}B",
        attributes={"PatientName": "Smythe^Joan^^Dr", "StudyDate": "20210615", "StudyTime": "120000", "StudyDescription": "Abdomen 100%_a"},
    ),
    "latin": Study(
        "MR",
        patient_id=f"{PREFIX}L",
        attributes={"SpecificCharacterSet": "ISO_IR 100", "PatientName": NAMES_BY_CHARSET["ISO_IR 100"], "StudyDate": "20220101"},
    ),
    "unicode": Study(
        "MR",
        patient_id=f"{PREFIX}U",
        attributes={"SpecificCharacterSet": "ISO_IR 192", "PatientName": NAMES_BY_CHARSET["ISO_IR 192"], "StudyDate": "20220102"},
    ),
    "japanese": Study(
        "MR",
        patient_id=f"{PREFIX}J",
        attributes={
            "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
            "PatientName": NAMES_BY_CHARSET["\\ISO 2022 IR 87"],
            "StudyDate": "20220103",
        },
    ),
}


@dataclass
class Asker:
    """Asks the archive and says which of STUDIES matched."""

    listener: Listener

    def studies(self, *, combined_datetime: bool = False, **keys: str) -> set[str]:
        """The names of the matching studies, by a STUDY level query in Study Root."""
        matches = self.ask("STUDY", **{"PatientID": f"{PREFIX}*", "StudyInstanceUID": ""} | keys, combined_datetime=combined_datetime)
        names = {study.uid: name for name, study in STUDIES.items()}
        return {names[match.StudyInstanceUID] for match in matches}

    def ask(self, level: str, *, model: str = "study", combined_datetime: bool = False, **keys: object) -> list[Dataset]:
        """The matching identifiers."""
        identifier = Dataset()
        identifier.SpecificCharacterSet = "ISO_IR 192"
        identifier.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(identifier, keyword, value)
        matches, status = scu.find(self.listener.scp, identifier, model=model, combined_datetime=combined_datetime)
        assert status == 0x0000
        return matches


@pytest.fixture(scope="module")
def asker(listener: Listener, tmp_path_factory: pytest.TempPathFactory) -> Asker:
    directory = tmp_path_factory.mktemp("query")
    files = [path for study in STUDIES.values() for path in study.write(directory)]
    assert_succeeded(dcmtk.storescu(listener.scp, files))
    return Asker(listener)


@pytest.mark.parametrize(("model", "level", "count"), [("patient", "PATIENT", 1), ("patient", "STUDY", 1), ("study", "STUDY", 1)])
def test_findscu_finds_patients_and_studies(asker: Asker, tmp_path: Path, model: str, level: str, count: int) -> None:
    keys = {"PatientID": f"{PREFIX}B", "PatientName": ""} | ({"StudyInstanceUID": ""} if level == "STUDY" else {})
    matches = dcmtk.findscu(asker.listener.scp, tmp_path, model, level, keys)
    assert len(matches) == count
    assert matches[0].PatientName == "Smythe^Joan^^Dr"
    assert matches[0].QueryRetrieveLevel == level


@pytest.mark.parametrize("model", ["patient", "study"])
def test_findscu_walks_down_to_series_and_images(asker: Asker, tmp_path: Path, model: str) -> None:
    above = {"PatientID": f"{PREFIX}A"} if model == "patient" else {}
    above["StudyInstanceUID"] = STUDIES["thorax"].uid
    series = dcmtk.findscu(asker.listener.scp, tmp_path / "series", model, "SERIES", above | {"SeriesInstanceUID": "", "SeriesNumber": ""})
    assert sorted(int(match.SeriesNumber) for match in series) == [1, 2]
    above["SeriesInstanceUID"] = series[0].SeriesInstanceUID
    images = dcmtk.findscu(asker.listener.scp, tmp_path / "images", model, "IMAGE", above | {"SOPInstanceUID": "", "InstanceNumber": ""})
    assert sorted(int(match.InstanceNumber) for match in images) == [1, 2, 3]


def test_every_response_names_where_it_can_be_retrieved(asker: Asker) -> None:
    (match,) = asker.ask("STUDY", StudyInstanceUID=STUDIES["abdomen"].uid)
    assert match.RetrieveAETitle == "PACS"


def test_universal_matching_returns_what_is_held(asker: Asker) -> None:
    (match,) = asker.ask("STUDY", StudyInstanceUID=STUDIES["abdomen"].uid, StudyDescription="", PatientSex="", StudyID="")
    assert (match.StudyDescription, match.PatientSex, match.StudyID) == ("Abdomen 100%_a", "O", "1")


def test_a_key_that_is_held_empty_is_returned_empty(asker: Asker) -> None:
    (match,) = asker.ask("STUDY", StudyInstanceUID=STUDIES["abdomen"].uid, InstitutionName="")
    assert "InstitutionName" in match
    assert not match.InstitutionName


def test_single_value_matching_is_exact(asker: Asker) -> None:
    assert asker.studies(StudyDescription="Thorax") == {"thorax"}


def test_text_other_than_names_is_matched_with_its_case(asker: Asker) -> None:
    assert asker.studies(StudyDescription="THORAX") == set()


def test_names_are_matched_without_regard_to_case(asker: Asker) -> None:
    assert asker.studies(PatientName="SMITH^john") == {"thorax", "thorax late"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("Sm*", {"thorax", "thorax late", "abdomen"}),
        ("sm?th^*", {"thorax", "thorax late"}),
        ("*Joan*", {"abdomen"}),
        ("*", set(STUDIES)),
        ("?", set()),
    ],
)
def test_wildcards_match_names(asker: Asker, pattern: str, expected: set[str]) -> None:
    assert asker.studies(PatientName=pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("Thorax*", {"thorax", "thorax late"}),
        ("Thorax+*", {"thorax late"}),
        ("*100%_a", {"abdomen"}),
        ("Abdomen ???%_?", {"abdomen"}),
        ("%", set()),
        ("Thor_x", set()),
    ],
)
def test_characters_that_are_special_elsewhere_stand_for_themselves(asker: Asker, pattern: str, expected: set[str]) -> None:
    assert asker.studies(StudyDescription=pattern) == expected


def test_a_list_of_uids_matches_each(asker: Asker) -> None:
    uids = "\\".join(str(uid) for uid in (STUDIES["thorax"].uid, STUDIES["abdomen"].uid, "1.2.3"))
    assert asker.studies(StudyInstanceUID=uids) == {"thorax", "abdomen"}


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        ("20200101", {"thorax"}),
        ("20200101-20200102", {"thorax", "thorax late"}),
        ("20200102-20211231", {"thorax late", "abdomen"}),
        ("-20200101", {"thorax"}),
        ("20220102-", {"unicode", "japanese"}),
        ("19000101-19991231", set()),
    ],
)
def test_dates_are_matched_by_range(asker: Asker, dates: str, expected: set[str]) -> None:
    assert asker.studies(StudyDate=dates) == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ("080000-120000", {"thorax", "abdomen", "latin", "unicode", "japanese"}),
        ("-0800", {"thorax"}),
        ("2359-", {"thorax late"}),
        ("23", {"thorax late"}),
        ("120001-235958", set()),
    ],
)
def test_times_are_matched_by_range_and_to_their_precision(asker: Asker, times: str, expected: set[str]) -> None:
    assert asker.studies(StudyTime=times) == expected


def test_date_and_time_ranges_apply_apart_unless_combined(asker: Asker) -> None:
    dates, times = "20200101-20210615", "100000-130000"
    assert asker.studies(StudyDate=dates, StudyTime=times) == {"abdomen"}
    assert asker.studies(StudyDate=dates, StudyTime=times, combined_datetime=True) == {"thorax late", "abdomen"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Müller*", {"latin"}),
        ("MÜLLER^JÜRGEN", {"latin"}),
        ("*=江戸^*", {"unicode"}),
        ("Ångström*", {"unicode"}),
        ("Yamada*", {"japanese"}),
        ("*山田*", {"japanese"}),
        ("*やまだ^たろう", {"japanese"}),
    ],
)
def test_names_match_whatever_the_character_set_they_were_stored_in(asker: Asker, name: str, expected: set[str]) -> None:
    assert asker.studies(PatientName=name) == expected


@pytest.mark.parametrize("charset", NAMES_BY_CHARSET)
def test_names_are_returned_readable_whatever_character_set_they_were_stored_in(asker: Asker, tmp_path: Path, charset: str) -> None:
    name = NAMES_BY_CHARSET[charset]
    (study,) = [each for each in STUDIES.values() if each.attributes.get("PatientName") == name]
    (match,) = dcmtk.findscu(asker.listener.scp, tmp_path, "study", "STUDY", {"StudyInstanceUID": study.uid, "PatientName": ""})
    match.decode()
    assert str(match.PatientName) == name


def test_modalities_in_study_are_matched_and_returned(asker: Asker) -> None:
    assert asker.studies(ModalitiesInStudy="CT") == {"thorax", "abdomen"}
    (match,) = asker.ask("STUDY", StudyInstanceUID=STUDIES["thorax"].uid, ModalitiesInStudy="")
    assert match.ModalitiesInStudy == "CT"


def test_counts_are_returned_when_asked_for(asker: Asker) -> None:
    (study,) = asker.ask("STUDY", StudyInstanceUID=STUDIES["thorax"].uid, NumberOfStudyRelatedSeries="", NumberOfStudyRelatedInstances="")
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (2, 6)
    (patient,) = asker.ask(
        "PATIENT",
        model="patient",
        PatientID=f"{PREFIX}A",
        NumberOfPatientRelatedStudies="",
        NumberOfPatientRelatedSeries="",
        NumberOfPatientRelatedInstances="",
    )
    assert (patient.NumberOfPatientRelatedStudies, patient.NumberOfPatientRelatedSeries, patient.NumberOfPatientRelatedInstances) == (
        2,
        3,
        7,
    )
    series = asker.ask("SERIES", StudyInstanceUID=STUDIES["thorax"].uid, SeriesInstanceUID="", NumberOfSeriesRelatedInstances="")
    assert [match.NumberOfSeriesRelatedInstances for match in series] == [3, 3]


def test_sequences_are_matched_by_their_item(asker: Asker) -> None:
    for code, expected in {"T1": {"thorax"}, "T2": set()}.items():
        item = Dataset()
        item.CodeValue, item.CodeMeaning = code, ""
        matches = asker.ask("STUDY", PatientID=f"{PREFIX}*", StudyInstanceUID="", ProcedureCodeSequence=[item])
        assert {match.StudyInstanceUID for match in matches} == {STUDIES[name].uid for name in expected}
        assert all(match.ProcedureCodeSequence[0].CodeMeaning == "CT thorax" for match in matches)


def test_series_are_matched_by_their_requests(asker: Asker) -> None:
    item = Dataset()
    item.RequestedProcedureID = "RP-*"
    matches = asker.ask("SERIES", StudyInstanceUID=STUDIES["thorax"].uid, SeriesInstanceUID="", RequestAttributesSequence=[item])
    assert len(matches) == 2


def test_a_query_sees_what_was_acknowledged_just_before_it(asker: Asker, tmp_path: Path) -> None:
    for _ in range(5):
        study = Study("MR")
        (path,) = study.write(tmp_path)
        assert scu.store_file(asker.listener.scp, path) == 0x0000
        assert len(asker.ask("STUDY", StudyInstanceUID=study.uid)) == 1


@pytest.mark.parametrize("level", ["", "WORKLIST"])
def test_an_unknown_level_is_refused(asker: Asker, level: str) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    identifier.StudyInstanceUID = ""
    _, status = scu.find(asker.listener.scp, identifier)
    assert status == 0xA900


def test_the_patient_level_is_not_part_of_study_root(asker: Asker) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.PatientID = "PATIENT", "*"
    _, status = scu.find(asker.listener.scp, identifier, model="study")
    assert status == 0xA900


def test_a_date_that_is_none_is_refused(asker: Asker) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    identifier["StudyDate"] = DataElement(0x00080020, "DA", "yesterday", validation_mode=config.IGNORE)
    _, status = scu.find(asker.listener.scp, identifier)
    assert status == 0xA900
