import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.dicom.patterns import fold_name_group, is_universal, matches_pattern


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_patterns_mean_what_the_obvious_regular_expression_means(pattern: str, text: str) -> None:
    obvious = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    assert matches_pattern(pattern, text) == (re.fullmatch(obvious, text, re.DOTALL) is not None)


def test_a_hostile_pattern_is_answered_at_once() -> None:
    assert not matches_pattern("*a" * 30 + "b", "a" * 10_000)


@pytest.mark.parametrize("pattern", ["", "*", "***"])
def test_only_asterisks_match_everything(pattern: str) -> None:
    assert is_universal(pattern)


def test_a_question_mark_demands_a_character() -> None:
    assert not is_universal("*?")


def test_names_fold_case_accents_and_insignificant_characters() -> None:
    assert fold_name_group(" MÜLLER ^ José^^ ") == "muller^jose"
