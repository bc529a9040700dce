"""UIDs and query levels."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID, generate_uid

from pacs_core.errors import InvalidUID
from pacs_core.model import Level, new_uid, parse_uid

_components = st.one_of(st.just("0"), st.from_regex(r"[1-9][0-9]{0,12}", fullmatch=True))


@given(st.lists(_components, min_size=1, max_size=20).map(".".join).filter(lambda uid: len(uid) <= 64))
def test_every_uid_in_the_form_of_the_standard_is_accepted_unchanged(uid: str) -> None:
    assert parse_uid(uid, name="SOPInstanceUID") == uid


@given(st.text(alphabet=string.digits + "./\\ a\n\0", max_size=70))
def test_acceptance_agrees_with_pydicom(text: str) -> None:
    try:
        parse_uid(text, name="SOPInstanceUID")
        accepted = True
    except InvalidUID:
        accepted = False
    uid = UID(text, validation_mode=0)
    # pydicom strips spaces, and its pattern ends in $, which a final line feed satisfies.
    assert accepted == (uid.is_valid and uid == text and not text.endswith("\n"))


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".1", "1..2", "1.02", "1.2.a", "1.2 ", "1.2\0", "1.2\n", "../../x", "/etc/passwd", "1.2/3", "1\\2", "١.٢", "1" * 65],
)
def test_what_is_not_a_uid_is_refused_with_the_attribute_named(text: str) -> None:
    with pytest.raises(InvalidUID, match="SeriesInstanceUID"):
        parse_uid(text, name="SeriesInstanceUID")


def test_a_uid_may_have_sixty_four_characters() -> None:
    assert len(parse_uid("1" * 64, name="SOPInstanceUID")) == 64


def test_generated_uids_are_uids() -> None:
    assert parse_uid(generate_uid(), name="SOPInstanceUID")


def test_levels_are_in_the_order_of_the_hierarchy() -> None:
    assert list(Level) == ["PATIENT", "STUDY", "SERIES", "IMAGE"]


@pytest.mark.parametrize(
    ("level", "key", "table"),
    [
        (Level.PATIENT, "PatientID", "patient"),
        (Level.STUDY, "StudyInstanceUID", "study"),
        (Level.SERIES, "SeriesInstanceUID", "series"),
        (Level.IMAGE, "SOPInstanceUID", "instance"),
    ],
)
def test_each_level_has_its_unique_key_and_table(level: Level, key: str, table: str) -> None:
    assert (level.key, level.table) == (key, table)


def test_a_new_uid_is_one_and_another_each_time() -> None:
    uids = {new_uid() for _ in range(100)}
    assert len(uids) == 100
    assert {parse_uid(uid, name="a new one") for uid in uids} == uids
