"""Orders: what ORM^O01 and OMI^O23 messages say of scheduled procedure steps (IHE RAD TF-2 4.4, appendix B). Pure.

A message is read whole before anything is done about it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import hl7

from pacs_core.errors import InvalidAttributeValue, MissingAttribute, RequestError, UnreadableDataSet
from pacs_core.model import Header
from pacs_core.ports.modality import Cancelled

# MSH-18 (HL7 table 0211) in the names of Python's codecs.
_CHARACTER_SETS: Mapping[str, str] = {
    "": "utf-8",
    "ASCII": "ascii",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "GB 18030-2000": "gb18030",
    "ISO IR87": "iso2022_jp",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
    **{f"8859/{part}": f"iso8859_{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}
_WITHOUT_DECLARATION = ("utf-8", "iso8859_1")

# ORC-1 (HL7 table 0119).
_SCHEDULED = frozenset({"NW", "XO", "XX", "RP", "RU", "SN", "XR", "PA"})
_CANCELLED = frozenset({"CA", "OC", "CR", "DC", "OD", "DR"})
_OF_NO_CONSEQUENCE = frozenset({"SC", "SS", "OK", "OR", "NA", "OE", "SR", "UA"})

_LONGEST_TEXT = 80  # characters of MSA-3
_UNREAD = hl7.parse("MSH|^~\\&|||||||||P|2.5\r")  # stands for a message that could not be read

_SEX = {"M": "M", "F": "F", "O": "O", "A": "O", "N": "O"}
_MESSAGES = ("ORM^O01", "OMI^O23")


class Unsupported(RequestError):
    """A message of another kind than the archive takes. Answered with AR."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one message asks for."""

    scheduled: tuple[Header, ...]
    cancelled: tuple[Cancelled, ...]


def decode(content: bytes) -> hl7.Message:
    """A message from its bytes, in the character set that it declares. UnreadableDataSet."""
    first = content.split(b"\r", 1)[0]
    separator = first[3:4] or b"|"
    declared = first.split(separator)[17].split(b"~")[0].decode("ascii", "replace").strip() if first.count(separator) >= 17 else ""
    if declared.upper() not in _CHARACTER_SETS:
        raise UnreadableDataSet(f"MSH-18: the character set {declared[:20]!r} is not known here")
    candidates = (_CHARACTER_SETS[declared.upper()],) if declared else _WITHOUT_DECLARATION
    for codec in candidates:
        try:
            return hl7.parse(content.decode(codec).replace("\r\n", "\r").replace("\n", "\r"))
        except UnicodeDecodeError:
            continue
        except Exception as exc:  # the library raises whatever malformed text leads to
            raise UnreadableDataSet("it is no HL7 message: it must begin with MSH and its separators") from exc
    raise UnreadableDataSet(f"it is not in the character set {declared or candidates[-1]}")


def order_of(message: hl7.Message, stations: Mapping[str, str]) -> Order:
    """What a message asks for.

    Args:
        stations: the AE title to schedule for where the message names none, by modality.

    Unsupported, MissingAttribute, InvalidAttributeValue.
    """
    kind = f"{_of(message, 'MSH', 9)}^{_of(message, 'MSH', 9, component=2)}"
    if kind not in _MESSAGES:
        raise Unsupported(f"{kind[:20]} is not taken here; {' and '.join(_MESSAGES)} are")
    patient = _patient(message)
    scheduled: list[Header] = []
    cancelled: list[Cancelled] = []
    for group in _groups(message):
        control = group.value("ORC", 1)
        if control in _OF_NO_CONSEQUENCE:
            continue
        if control in _CANCELLED:
            cancelled.append(_cancellation(group))
        elif control in _SCHEDULED:
            scheduled += (patient | step for step in _steps(group, stations))
        else:
            raise InvalidAttributeValue(f"ORC-1: {control[:10]!r} is no order control that is known here")
    return Order(tuple(scheduled), tuple(cancelled))


def acknowledgement(message: hl7.Message | None, code: str, text: str) -> bytes:
    """The ACK of a message, None for one that could not be read, in UTF-8: AA, AE or AR, and for a person what is wrong with it."""
    source = message if message is not None else _UNREAD
    of_it = {field: source.escape(_of(source, "MSH", field)) for field in (3, 4, 5, 6, 10, 11, 12)}
    trigger = source.escape(_of(source, "MSH", 9, component=2))
    addresses = f"{of_it[5]}|{of_it[6]}|{of_it[3]}|{of_it[4]}"
    now, number = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000"), uuid4().hex[:20]
    kind = f"ACK^{trigger}" if trigger else "ACK"
    header = f"MSH|^~\\&|{addresses}|{now}||{kind}|{number}|{of_it[11] or 'P'}|{of_it[12] or '2.5'}||||||UNICODE UTF-8"
    return f"{header}\rMSA|{code}|{of_it[10]}|{source.escape(text[:_LONGEST_TEXT])}\r".encode()


@dataclass(frozen=True, slots=True)
class _Group:
    """An ORC with the segments up to the next one."""

    message: hl7.Message
    segments: Sequence[hl7.Segment]

    def value(self, name: str, field: int, component: int = 1) -> str:
        """Of the first segment of that name; "" where there is none."""
        return next((_value(self.message, each, field, component) for each in self.all(name)), "")

    def all(self, name: str) -> Iterator[hl7.Segment]:
        return (each for each in self.segments if _name(each) == name)


def _groups(message: hl7.Message) -> Iterator[_Group]:
    starts = [index for index, segment in enumerate(message) if _name(segment) == "ORC"]
    if not starts:
        raise MissingAttribute("a segment ORC is missing")
    for start, end in zip(starts, [*starts[1:], len(message)], strict=True):
        yield _Group(message, message[start:end])


def _patient(message: hl7.Message) -> Header:
    """PID and PV1."""
    header = {
        "PatientID": _of(message, "PID", 3),
        "IssuerOfPatientID": _of(message, "PID", 3, component=4),
        "PatientName": _person(message, "PID", 5, first=1),
        "PatientBirthDate": _of(message, "PID", 7)[:8],
        "PatientSex": _SEX.get(_of(message, "PID", 8), ""),
        "ReferringPhysicianName": _person(message, "PV1", 8, first=2),
        "AdmissionID": _of(message, "PV1", 19),
        "CurrentPatientLocation": _of(message, "PV1", 3),
    }
    return {keyword: value for keyword, value in header.items() if value}


def _steps(group: _Group, stations: Mapping[str, str]) -> Iterator[Header]:
    """One for each IPC of an OMI, one for an ORM's OBR."""
    request = _request(group)
    procedures = list(group.all("IPC"))
    for ipc in procedures:
        yield _complete(request | _of_ipc(group.message, ipc), stations)
    if not procedures:
        yield _complete(request, stations)


def _request(group: _Group) -> Header:
    """ORC, OBR, TQ1 and ZDS."""
    at = group.value("TQ1", 7) or group.value("OBR", 27, 4) or group.value("ORC", 7, 4) or group.value("OBR", 36)
    header: Header = {
        "AccessionNumber": group.value("OBR", 18),
        "RequestedProcedureID": group.value("OBR", 19),
        "ScheduledProcedureStepID": group.value("OBR", 20),
        "Modality": group.value("OBR", 24),
        "StudyInstanceUID": group.value("ZDS", 1),
        "PlacerOrderNumberImagingServiceRequest": group.value("ORC", 2) or group.value("OBR", 2),
        "FillerOrderNumberImagingServiceRequest": group.value("ORC", 3) or group.value("OBR", 3),
        "RequestedProcedureDescription": group.value("OBR", 4, 2),
        "ScheduledProcedureStepDescription": group.value("OBR", 4, 5) or group.value("OBR", 4, 2),
        "RequestedProcedureCodeSequence": _code(group, 1),
        "ScheduledProtocolCodeSequence": _code(group, 4),
        "RequestingPhysician": _person(group.message, "OBR", 16, first=2, segments=group.segments),
        "ReasonForTheRequestedProcedure": group.value("OBR", 31, 2) or group.value("OBR", 31),
        "ScheduledProcedureStepStartDate": at[:8],
        "ScheduledProcedureStepStartTime": at[8:14],
    }
    return {keyword: value for keyword, value in header.items() if value}


def _of_ipc(message: hl7.Message, ipc: hl7.Segment) -> Header:
    """The imaging procedure control segment of an OMI message (HL7 v2.5 4.5.6)."""
    fields = {
        "AccessionNumber": 1,
        "RequestedProcedureID": 2,
        "StudyInstanceUID": 3,
        "ScheduledProcedureStepID": 4,
        "Modality": 5,
        "ScheduledStationName": 7,
        "ScheduledProcedureStepLocation": 8,
        "ScheduledStationAETitle": 9,
    }
    return {keyword: value for keyword, field in fields.items() if (value := _value(message, ipc, field, 1))}


def _complete(header: Header, stations: Mapping[str, str]) -> Header:
    modality = str(header.get("Modality", ""))
    if "ScheduledStationAETitle" not in header:
        if modality not in stations:
            raise MissingAttribute(f"no station is named, and hl7_stations has none for the modality {modality[:16]!r}")
        header["ScheduledStationAETitle"] = stations[modality]
    if "ScheduledProcedureStepStartDate" in header:
        header.setdefault("ScheduledProcedureStepStartTime", "000000")
    return header


def _cancellation(group: _Group) -> Cancelled:
    study = group.value("IPC", 3) or group.value("ZDS", 1)
    accession = group.value("IPC", 1) or group.value("OBR", 18)
    if not study and not accession:
        raise MissingAttribute("a cancellation names neither an accession number nor a study")
    return Cancelled(study, accession, group.value("IPC", 4) or group.value("OBR", 20))


def _code(group: _Group, first: int) -> list[Header]:
    """A code of OBR-4: the requested procedure's from component 1 on, the protocol's from component 4 on."""
    value, meaning, scheme = (group.value("OBR", 4, first + offset) for offset in range(3))
    return [{"CodeValue": value, "CodeMeaning": meaning or value, "CodingSchemeDesignator": scheme or "L"}] if value else []


def _person(message: hl7.Message, name: str, field: int, *, first: int, segments: Sequence[hl7.Segment] | None = None) -> str:
    """A name (XPN, or XCN behind its identifier) as DICOM has it: prefix before suffix (PS3.5 6.2.1)."""
    segment = next((each for each in segments or message if _name(each) == name), None)
    if segment is None:
        return ""
    family, given, middle, suffix, prefix = (_value(message, segment, field, first + offset) for offset in range(5))
    return f"{family}^{given}^{middle}^{prefix}^{suffix}".rstrip("^")


def _of(message: hl7.Message, name: str, field: int, *, component: int = 1) -> str:
    return next((_value(message, segment, field, component) for segment in message if _name(segment) == name), "")


def _name(segment: hl7.Segment) -> str:
    return str(segment[0])


def _value(message: hl7.Message, segment: hl7.Segment, field: int, component: int) -> str:
    """The first repetition's component, its first subcomponent; "" where it is absent, or deleted by two quotes."""
    part: object = segment
    for index in (field, 1, component, 1):
        if isinstance(part, str):
            if index != 1:  # what has no further parts is its own first one
                return ""
            continue
        assert isinstance(part, hl7.Container)
        try:
            part = part(index)
        except IndexError:
            return ""
    text = str(message.unescape(str(part))).strip()
    return "" if text == '""' else text
