"""Orders as information systems send them (IHE RAD-4, HL7 v2.3.1 and v2.5)."""

from collections.abc import Mapping

import pytest

from pacs_core.errors import InvalidAttributeValue, MissingAttribute, RequestError, UnreadableDataSet
from pacs_core.hl7.orders import Unsupported, acknowledgement, decode, order_of
from pacs_core.ports.modality import Cancelled
from pacs_core.workflow.worklist import item_of

MSH = "MSH|^~\\&|RIS|HOSP|PACS|HOSP|20261127||{kind}|42|P|2.3.1||||||{charset}"
PID = "PID|1||P1^^^HOSP~X2||M\\T\\ller^Jörg^Peter^jr^Dr||19500102|F"
PV1 = "PV1||O|W1|||||77^Referring^Doc^^^Prof"
ORC = "ORC|{control}|PL1|FL1"
OBR = "OBR|1|PL1|FL1|C1^Chest^99L^P1^CT Chest^99P||||||||||||12^Order^Otto||A1|RP1|SPS1||||CT|||1^once^^202612010830||||^Cough"
ZDS = "ZDS|1.2.3^100^Application^DICOM"
STATIONS: Mapping[str, str] = {"CT": "CT1"}


def message(*segments: str, kind: str = "ORM^O01", charset: str = "UNICODE UTF-8", control: str = "NW", codec: str = "utf-8") -> bytes:
    text = "\r".join((MSH.format(kind=kind, charset=charset), *(segment.format(control=control) for segment in segments))) + "\r"
    return text.encode(codec)


def test_an_orm_becomes_a_step() -> None:
    order = order_of(decode(message(PID, PV1, ORC, OBR, ZDS)), STATIONS)
    assert order.cancelled == ()
    (header,) = order.scheduled
    item = item_of(header)
    wanted = {
        "PatientID": "P1",
        "IssuerOfPatientID": "HOSP",
        "PatientName": "M&ller^Jörg^Peter^Dr^jr",
        "PatientBirthDate": "19500102",
        "PatientSex": "F",
        "ReferringPhysicianName": "Referring^Doc^^Prof",
        "RequestingPhysician": "Order^Otto",
        "ReasonForTheRequestedProcedure": "Cough",
        "AccessionNumber": "A1",
        "RequestedProcedureID": "RP1",
        "StudyInstanceUID": "1.2.3",
        "PlacerOrderNumberImagingServiceRequest": "PL1",
        "FillerOrderNumberImagingServiceRequest": "FL1",
        "RequestedProcedureDescription": "Chest",
        "ScheduledProcedureStepDescription": "CT Chest",
        "ScheduledProcedureStepID": "SPS1",
        "Modality": "CT",
        "ScheduledStationAETitle": "CT1",
        "ScheduledProcedureStepStartDate": "20261201",
        "ScheduledProcedureStepStartTime": "0830",
    }
    assert {keyword: item.text(keyword) for keyword in wanted} == wanted
    assert header["ScheduledProtocolCodeSequence"] == [{"CodeValue": "P1", "CodeMeaning": "CT Chest", "CodingSchemeDesignator": "99P"}]


def test_each_procedure_of_an_omi_becomes_a_step() -> None:
    ipc = "IPC|A1|RP1|1.2.3|SPS{n}|MR|P^Protocol|Room {n}|Basement|MR{n}"
    segments = [PID, ORC, "TQ1|1||||||20261202|", OBR, *(ipc.replace("{n}", n) for n in "12")]
    order = order_of(decode(message(*segments, kind="OMI^O23^OMI_O23")), {})
    items = [item_of(header) for header in order.scheduled]
    assert [(i.text("ScheduledProcedureStepID"), i.text("ScheduledStationAETitle"), i.text("Modality")) for i in items] == [
        ("SPS1", "MR1", "MR"),
        ("SPS2", "MR2", "MR"),
    ]
    assert [i.scheduled_at.isoformat() for i in items] == ["2026-12-02T00:00:00"] * 2


@pytest.mark.parametrize("control", ["CA", "OC", "DC"])
def test_a_cancellation_names_what_is_cancelled(control: str) -> None:
    order = order_of(decode(message(PID, ORC, OBR, ZDS, control=control)), {})
    assert (order.scheduled, order.cancelled) == ((), (Cancelled("1.2.3", "A1", "SPS1"),))
    order = order_of(decode(message(PID, ORC, OBR, control=control)), {})
    assert order.cancelled == (Cancelled("", "A1", "SPS1"),)


def test_several_orders_of_a_message_are_told_apart() -> None:
    cancelled = [ORC.format(control="CA"), OBR.replace("A1|RP1|SPS1", "A2|RP2|SPS2")]
    order = order_of(decode(message(PID, ORC, OBR, *cancelled)), STATIONS)
    assert [header["AccessionNumber"] for header in order.scheduled] == ["A1"]
    assert order.cancelled == (Cancelled("", "A2", "SPS2"),)


def test_a_change_of_status_is_of_no_consequence() -> None:
    order = order_of(decode(message(PID, ORC, OBR, control="SC")), STATIONS)
    assert (order.scheduled, order.cancelled) == ((), ())


@pytest.mark.parametrize(
    ("declared", "codec"), [("", "utf-8"), ("", "latin-1"), ("8859/1", "latin-1"), ("UNICODE UTF-8", "utf-8"), ("8859/15", "iso8859_15")]
)
def test_character_sets(declared: str, codec: str) -> None:
    (header,) = order_of(decode(message(PID, ORC, OBR, charset=declared, codec=codec)), STATIONS).scheduled
    assert str(header["PatientName"]).startswith("M&ller^Jörg")


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        (b"", UnreadableDataSet, "MSH"),
        (b"PID|1\r", UnreadableDataSet, "MSH"),
        (message(PID, charset="KLINGON"), UnreadableDataSet, "KLINGON"),
        (message(PID, charset="UNICODE UTF-8", codec="latin-1"), UnreadableDataSet, "character set"),
        (message(PID, kind="ADT^A01"), Unsupported, "ORM"),
        (message(PID, kind="ADT"), Unsupported, "ADT"),
        (message(PID), MissingAttribute, "ORC"),
        (message(PID, ORC, OBR, control="??"), InvalidAttributeValue, "ORC-1"),
        (message(PID, ORC, OBR.replace("|CT|", "|XA|")), MissingAttribute, "hl7_stations"),
        (message(PID, "ORC|CA"), MissingAttribute, "accession"),
    ],
)
def test_what_cannot_be_understood_is_refused(content: bytes, error: type[RequestError], told: str) -> None:
    with pytest.raises(error, match=told):
        order_of(decode(content), STATIONS)


def test_an_acknowledgement_goes_back_to_who_sent_it_and_says_what_is_wrong() -> None:
    source = decode(message(PID))
    answer = decode(acknowledgement(source, "AE", "bad | thing\\"))
    assert (str(answer["MSH.F3.R1.C1"]), str(answer["MSH.F5.R1.C1"])) == ("PACS", "RIS")
    assert (str(answer["MSH.F9.R1.C1"]), str(answer["MSH.F9.R1.C2"])) == ("ACK", "O01")
    assert [str(answer.segment("MSA")[n]) for n in (1, 2)] == ["AE", "42"]
    assert answer.unescape(str(answer.segment("MSA")[3])) == "bad | thing\\"


def test_what_could_not_be_read_is_answered_too() -> None:
    answer = decode(acknowledgement(None, "AR", "no"))
    assert [str(answer.segment("MSA")[n]) for n in (1, 3)] == ["AR", "no"]
