"""Identifiers in and out, in the character set of whoever asks (PS3.4 C.4.1, PS3.5 6.1)."""

import pytest
from pydicom import Dataset

from pacs_core.dimse import identifiers
from pacs_core.errors import InvalidIdentifier
from pacs_core.model import Header, Level

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
ALL = tuple(Level)


def asked(**keys: object) -> Dataset:
    ds = Dataset()
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_an_identifier_survives_every_uncompressed_syntax(syntax: str) -> None:
    ds = asked(QueryRetrieveLevel="STUDY", PatientName="Müller^Ü", StudyDate="20240101-", SpecificCharacterSet="ISO_IR 100")
    read = identifiers.decode(identifiers.encode(ds, syntax), syntax)
    query = identifiers.query_of(read, ALL)
    assert query.level is Level.STUDY
    assert query.keys == {"PatientName": "Müller^Ü", "StudyDate": "20240101-"}


@pytest.mark.parametrize(
    ("asked_in", "name", "answered_in"),
    [
        (None, "Synthetic^Case", None),
        ("ISO_IR 100", "Müller^Jürgen", "ISO_IR 100"),
        (None, "Müller^Jürgen", "ISO_IR 192"),
        ("ISO_IR 100", "Yamada^Tarou=山田^太郎=やまだ^たろう", "ISO_IR 192"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
        (["", "ISO 2022 IR 87"], "Müller^Jürgen", "ISO_IR 192"),
        ("ISO_IR 192", "Ångström^Søren=江戸^太郎", "ISO_IR 192"),
        ("ISO_IR 999", "Müller^Jürgen", "ISO_IR 192"),
    ],
)
def test_an_answer_is_in_the_askers_character_set_where_that_holds_it(asked_in: object, name: str, answered_in: object) -> None:
    question = asked(PatientName="")
    if asked_in:
        question.SpecificCharacterSet = asked_in
    answer = identifiers.answer(question, {"PatientName": name}, {"StudyInstanceUID": "1.2"})
    assert answer.get("SpecificCharacterSet") == answered_in
    read = identifiers.decode(identifiers.encode(answer, EXPLICIT), EXPLICIT)
    assert str(read.PatientName) == name


def test_an_answer_has_what_was_asked_for_and_the_unique_key() -> None:
    found: Header = {"StudyInstanceUID": "1.2.3", "StudyDate": "2024", "PatientName": "X", "Rows": "512", "ModalitiesInStudy": "CT\\MR"}
    question = asked(StudyDate="", Rows=None, ModalitiesInStudy="", AccessionNumber="", QueryRetrieveLevel="STUDY")
    answer = identifiers.answer(question, found, {"StudyInstanceUID": "1.2.3", "QueryRetrieveLevel": "STUDY", "RetrieveAETitle": "PACS"})
    assert (answer.StudyInstanceUID, answer.StudyDate, answer.Rows) == ("1.2.3", "2024", 512)
    assert list(answer.ModalitiesInStudy) == ["CT", "MR"]
    assert not answer.AccessionNumber
    assert (answer.QueryRetrieveLevel, answer.RetrieveAETitle) == ("STUDY", "PACS")
    assert "PatientName" not in answer


def test_values_that_their_vr_cannot_hold_are_answered_empty() -> None:
    answer = identifiers.answer(asked(Rows=None, NumberOfFrames=None), {"Rows": "many", "NumberOfFrames": "x"}, {})
    assert not answer.Rows
    assert not answer.NumberOfFrames


def test_sequence_items_are_cut_down_to_what_was_asked() -> None:
    item = asked(ScheduledProcedureStepID="", ScheduledProcedureStepDescription="", ScheduledProtocolCodeSequence=[asked(CodeValue="")])
    question = asked(RequestAttributesSequence=[item])
    found: Header = {
        "RequestAttributesSequence": [
            {
                "ScheduledProcedureStepID": "S1",
                "RequestedProcedureID": "R1",
                "ScheduledProtocolCodeSequence": [{"CodeValue": "1", "CodeMeaning": "x"}],
            }
        ]
    }
    answer = identifiers.answer(question, found, {})
    (answered,) = answer.RequestAttributesSequence
    assert answered.ScheduledProcedureStepID == "S1"
    assert "RequestedProcedureID" not in answered
    assert answered["ScheduledProcedureStepDescription"].is_empty
    assert list(answered.ScheduledProtocolCodeSequence) == [asked(CodeValue="1")]


def test_a_sequence_that_is_asked_for_without_an_item_comes_whole() -> None:
    found: Header = {"RequestAttributesSequence": [{"ScheduledProcedureStepID": "S1", "RequestedProcedureID": "R1"}]}
    answer = identifiers.answer(asked(RequestAttributesSequence=[]), found, {})
    assert list(answer.RequestAttributesSequence) == [asked(ScheduledProcedureStepID="S1", RequestedProcedureID="R1")]


@pytest.mark.parametrize("level", ["", "PATIENT", "FRAME"])
def test_a_level_that_the_model_does_not_have_is_refused(level: str) -> None:
    with pytest.raises(InvalidIdentifier, match="STUDY, SERIES"):
        identifiers.query_of(asked(QueryRetrieveLevel=level), (Level.STUDY, Level.SERIES))


def test_bytes_that_are_no_data_set_are_refused() -> None:
    with pytest.raises(InvalidIdentifier):
        identifiers.decode(b"\x08\x00\x52\x00CS\xff\xff12", EXPLICIT)


def test_keys_that_are_neither_matched_nor_returned_are_noticed() -> None:
    assert identifiers.unsupported(asked(QueryRetrieveLevel="STUDY", PixelPresentation="COLOR"))
    assert not identifiers.unsupported(asked(QueryRetrieveLevel="STUDY", StudyDate=""))
