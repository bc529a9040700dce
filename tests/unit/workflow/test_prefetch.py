"""Which studies are priors, in which order, and from where."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.errors import InvalidIdentifier
from pacs_core.model import UID, Header, Prior, PriorRequest
from pacs_core.workflow.prefetch import KnownStudy, PatientPlan, Policy, check, delay_after, plan, studies_of

DAY = date(2026, 3, 4)
REQUEST = PriorRequest("P1", DAY, Modality="CT", BodyPartExamined="CHEST")

ANY_PRIOR = Policy()


def study(uid: str, days_ago: int = 30, modality: str = "CT", part: str = "", instances: int = 5) -> KnownStudy:
    parts = frozenset({part}) if part else frozenset[str]()
    return KnownStudy(UID(uid), DAY - timedelta(days=days_ago), frozenset({modality}), parts, instances)


def planned(found: Mapping[str, Sequence[KnownStudy]], *, policy: Policy = ANY_PRIOR, held: dict[str, int] | None = None) -> PatientPlan:
    return plan(REQUEST, found, [], {UID(uid): count for uid, count in (held or {}).items()}, policy)


def order(found: Mapping[str, Sequence[KnownStudy]], policy: Policy = ANY_PRIOR) -> list[str]:
    return [prior.StudyInstanceUID for prior in planned(found, policy=policy).fetch]


def test_modality_comes_before_body_part_and_that_before_date() -> None:
    ranked = [
        study("1", 300, "CT", "CHEST"),
        study("2", 10, "CT", "HEAD"),
        study("3", 20, "CT"),
        study("4", 200, "MR", "CHEST"),
        study("5", 1, "MR"),
    ]
    for shuffled in permutations(ranked):
        assert order({"ONE": shuffled}) == ["1", "2", "3", "4", "5"]
    assert order({"ONE": ranked}, Policy(modality="any", body_part="any")) == ["5", "2", "3", "4", "1"]
    assert order({"ONE": ranked}, Policy(modality="only")) == ["1", "2", "3"]
    assert order({"ONE": ranked}, Policy(body_part="only")) == ["1", "3", "4", "5"], "what names no body part is not ruled out"


@pytest.mark.parametrize(("days_ago", "is_prior"), [(-1, False), (0, True), (365, True), (366, False)])
def test_a_prior_is_not_older_than_the_lookback_and_not_of_the_future(days_ago: int, is_prior: bool) -> None:
    assert order({"ONE": [study("1", days_ago)]}) == ["1"] * is_prior


def test_sources_are_asked_in_order_of_preference_but_who_has_less_of_a_study_comes_last() -> None:
    found = {"ONE": [study("1", instances=3)], "TWO": [study("1", instances=5)], "THREE": [study("1", instances=5)]}
    assert planned(found).fetch == (Prior(UID("1"), ("TWO", "THREE", "ONE"), 5),)


@pytest.mark.parametrize(("here", "fetched"), [(0, True), (4, True), (5, False), (6, False)])
def test_what_is_held_whole_is_not_fetched(here: int, fetched: bool) -> None:
    made = planned({"ONE": [study("1", instances=5)]}, held={"1": here})
    assert (len(made.fetch), len(made.held)) == (int(fetched), int(not fetched))


def test_a_source_that_does_not_count_is_believed_to_have_what_is_here() -> None:
    assert planned({"ONE": [study("1", instances=0)]}, held={"1": 1}).fetch == ()
    assert planned({"ONE": [study("1", instances=0)]}).fetch == (Prior(UID("1"), ("ONE",), 0),)


def test_what_is_here_counts_among_the_studies_of_a_patient() -> None:
    local = [study("7", 1), study("8", 2)]
    made = plan(REQUEST, {"ONE": [study("1", 3), study("2", 4)]}, local, {UID("7"): 5}, Policy(at_most=3))
    assert ([each.StudyInstanceUID for each in made.fetch], made.held) == (["1"], ("7", "8"))


@given(
    st.lists(st.builds(study, st.integers(1, 30).map(str), st.integers(-10, 800), st.sampled_from(["CT", "MR"])), max_size=40),
    st.integers(1, 12),
)
def test_never_more_than_asked_for_and_no_study_twice(studies: list[KnownStudy], at_most: int) -> None:
    fetch = [prior.StudyInstanceUID for prior in planned({"ONE": studies, "TWO": studies[::2]}, policy=Policy(at_most=at_most)).fetch]
    assert len(fetch) == len(set(fetch)) <= at_most


@pytest.mark.parametrize("patient", ["", "*", "P?", "A\\B"])
def test_what_would_match_other_patients_is_refused(patient: str) -> None:
    with pytest.raises(InvalidIdentifier):
        check(PriorRequest(patient, DAY))


def test_answers_are_put_together_by_study_and_those_for_others_left_out() -> None:
    answer: Header = {"PatientID": "P1", "StudyInstanceUID": "1", "StudyDate": "20260101", "NumberOfStudyRelatedInstances": "7"}
    answers: list[Header] = [
        {**answer, "Modality": "CT", "BodyPartExamined": "chest"},
        {**answer, "ModalitiesInStudy": "CT\\SR"},
        {**answer, "StudyInstanceUID": "2", "PatientID": "P10"},
        {**answer, "StudyInstanceUID": "3", "StudyDate": ""},
        {**answer, "StudyInstanceUID": "4", "IssuerOfPatientID": "ELSEWHERE"},
    ]
    (known,) = studies_of(PriorRequest("P1", DAY, IssuerOfPatientID="HERE"), answers)
    assert known == KnownStudy(UID("1"), date(2026, 1, 1), frozenset({"CT", "SR"}), frozenset({"CHEST"}), 7)


def test_delays_grow_and_end() -> None:
    delays = [delay_after(rounds) for rounds in range(5)]
    assert delays[-1] is None
    assert [delay for delay in delays if delay] == sorted(delay for delay in delays if delay)
