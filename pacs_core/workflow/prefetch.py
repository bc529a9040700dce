"""Which priors of a patient are worth fetching, from where, and in which order. Pure.

A prior is relevant by what is going to be done: its modality and body part first, then how recent it is.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from pacs_core.dicom.values import parse_date
from pacs_core.errors import InvalidIdentifier
from pacs_core.model import UID, Header, Prior, PriorRequest

Relevance = Literal["prefer", "only", "any"]

# Before all sources of a study are asked once more. After the last of them it has failed.
_DELAYS = (60.0, 300.0, 1800.0, 7200.0)  # seconds


@dataclass(frozen=True, slots=True)
class Policy:
    """Which studies are priors.

    Attributes:
        lookback_days: how old a prior may be on the day for which it is wanted.
        at_most: studies of a patient, those that are held already among them.
        modality, body_part: whether studies of what is going to be done come first ("prefer"), come alone ("only"), or it does not
            matter ("any"). A study that names no body part is never ruled out by it.
    """

    lookback_days: int = 365
    at_most: int = 10
    modality: Relevance = "prefer"
    body_part: Relevance = "prefer"

    def since(self, request: PriorRequest) -> date:
        """The earliest StudyDate of a prior."""
        return request.day - timedelta(days=self.lookback_days)


@dataclass(frozen=True, slots=True)
class KnownStudy:
    """A study of a patient, as an archive tells of it.

    Attributes:
        instances: NumberOfStudyRelatedInstances; 0 where it does not say.
    """

    StudyInstanceUID: UID
    StudyDate: date
    modalities: frozenset[str]
    body_parts: frozenset[str]
    instances: int


@dataclass(frozen=True, slots=True)
class PatientPlan:
    """What is to be done for a patient.

    Attributes:
        fetch: studies to fetch, the most relevant first.
        held: relevant studies that are here whole.
    """

    fetch: tuple[Prior, ...]
    held: tuple[UID, ...]


def check(request: PriorRequest) -> None:
    """InvalidIdentifier for a PatientID that a query would take for a pattern, or for all patients (PS3.4 C.2.2.2)."""
    if not request.PatientID or any(character in request.PatientID for character in "*?\\"):
        raise InvalidIdentifier("a PatientID that is empty or has a wildcard names no patient")


def studies_of(request: PriorRequest, headers: Iterable[Header]) -> Sequence[KnownStudy]:
    """The studies that the answers to a query at STUDY or SERIES level tell of, without those that have no date.

    A remote archive may match more loosely than it was asked to: answers for another patient are left out.
    """
    found: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        if _is_of(request, header):
            found[_text(header, "StudyInstanceUID")].append(header)
    studies = (_study(uid, of_study) for uid, of_study in found.items() if uid)
    return [study for study in studies if study is not None]


def plan(
    request: PriorRequest, found: Mapping[str, Sequence[KnownStudy]], local: Sequence[KnownStudy], held: Mapping[UID, int], policy: Policy
) -> PatientPlan:
    """The priors of a patient.

    Args:
        found: what each source has, by AE title, in order of preference.
        local: what is here of the patient.
        held: how many instances are here of any of these studies, whoever's they are.
    """
    studies: dict[UID, KnownStudy] = {}
    where: dict[UID, list[tuple[str, int]]] = defaultdict(list)
    for source, of_source in found.items():
        for study in of_source:
            where[study.StudyInstanceUID].append((source, study.instances))
            studies[study.StudyInstanceUID] = _joined(studies.get(study.StudyInstanceUID), study)
    for study in local:
        studies.setdefault(study.StudyInstanceUID, study)
    relevant = sorted(
        (study for study in studies.values() if _is_prior(request, study, policy)), key=lambda each: _rank(request, each, policy)
    )
    chosen = relevant[: policy.at_most]
    missing = [study for study in chosen if where[study.StudyInstanceUID] and not _is_whole(study, held)]
    priors = [Prior(study.StudyInstanceUID, _sources(where[study.StudyInstanceUID]), study.instances) for study in missing]
    return PatientPlan(tuple(priors), tuple(study.StudyInstanceUID for study in chosen if study not in missing))


def delay_after(rounds: int) -> float | None:
    """Seconds until the sources of a study are asked once more, when that many rounds had failed before this one; None for never."""
    return _DELAYS[rounds] if rounds < len(_DELAYS) else None


def _is_whole(study: KnownStudy, held: Mapping[UID, int]) -> bool:
    here = held.get(study.StudyInstanceUID, 0)
    return here > 0 and here >= study.instances


def _is_prior(request: PriorRequest, study: KnownStudy, policy: Policy) -> bool:
    return (
        policy.since(request) <= study.StudyDate <= request.day
        and (policy.modality != "only" or _same_modality(request, study))
        and (policy.body_part != "only" or not study.body_parts or _same_body_part(request, study))
    )


def _rank(request: PriorRequest, study: KnownStudy, policy: Policy) -> tuple[bool, bool, int, str]:
    """Small is relevant."""
    other_modality = policy.modality != "any" and not _same_modality(request, study)
    other_part = policy.body_part != "any" and not _same_body_part(request, study)
    return other_modality, other_part, -study.StudyDate.toordinal(), study.StudyInstanceUID


def _same_modality(request: PriorRequest, study: KnownStudy) -> bool:
    return not request.Modality or request.Modality in study.modalities


def _same_body_part(request: PriorRequest, study: KnownStudy) -> bool:
    return not request.BodyPartExamined or request.BodyPartExamined.upper() in study.body_parts


def _sources(where: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """In order of preference, but those that have less of the study than others come last."""
    most = max(instances for _, instances in where)
    return tuple(source for source, instances in sorted(where, key=lambda each: each[1] < most))


def _joined(one: KnownStudy | None, other: KnownStudy) -> KnownStudy:
    if one is None:
        return other
    return KnownStudy(
        one.StudyInstanceUID,
        one.StudyDate,
        one.modalities | other.modalities,
        one.body_parts | other.body_parts,
        max(one.instances, other.instances),
    )


def _is_of(request: PriorRequest, header: Header) -> bool:
    issuer = _text(header, "IssuerOfPatientID")
    another_issuer = request.IssuerOfPatientID and issuer and issuer != request.IssuerOfPatientID
    return _text(header, "PatientID") == request.PatientID and not another_issuer


def _study(uid: str, headers: Sequence[Header]) -> KnownStudy | None:
    studied = next((day for header in headers if (day := parse_date(_text(header, "StudyDate")))), None)
    if studied is None:
        return None
    modalities = {value for header in headers for keyword in ("ModalitiesInStudy", "Modality") for value in _values(header, keyword)}
    parts = {value.upper() for header in headers for value in _values(header, "BodyPartExamined")}
    instances = max(_count(header) for header in headers)
    return KnownStudy(UID(uid), studied, frozenset(modalities), frozenset(parts), instances)


def _count(header: Header) -> int:
    text = _text(header, "NumberOfStudyRelatedInstances")
    return int(text) if text.isascii() and text.isdigit() else 0


def _values(header: Header, keyword: str) -> Sequence[str]:
    return [value.strip() for value in _text(header, keyword).split("\\") if value.strip()]


def _text(header: Header, keyword: str) -> str:
    value = header.get(keyword, "")
    return value if isinstance(value, str) else ""
