"""What fuzzy matching of names finds, and what it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.dicom.fuzzy import finds, mistakes_allowed, words_of
from pacs_core.dicom.matching import matches

NAME = "Müller-Lüdenscheidt^Jörg Peter^^Dr.^"


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("muller", True),
        ("MÜLLER^JÖRG", True),
        ("jorg mueller", True),  # one letter too many
        ("Jrög", True),  # two letters swapped
        ("Mulelr", True),
        ("Müler", True),
        ("ludenscheid", True),  # the beginning
        ("lutenscheitt", True),  # two mistakes in a long word
        ("lutenscheitz", False),  # three
        ("pet", True),
        ("peter paul", False),
        ("jog", False),  # a short word must be right
        ("*scheidt", True),
        ("m?ller", True),
        ("m?lle?x", False),
        ("", True),
    ],
)
def test_words_are_found_in_any_order_and_with_small_mistakes(key: str, found: bool) -> None:
    assert finds(words_of(key), NAME) is found


def test_other_component_groups_are_looked_at_too() -> None:
    assert finds(words_of("山田"), "Yamada^Tarou=山田^太郎=やまだ^たろう")
    assert finds(words_of("yamada tarou"), "Yamada^Tarou=山田^太郎=やまだ^たろう")


@given(st.text("abcdefg ^", min_size=1, max_size=30))
def test_every_name_finds_itself(name: str) -> None:
    assert finds(words_of(name), name)


@given(st.text("abcdefghij", min_size=4, max_size=12), st.data())
def test_a_mistake_in_a_longer_word_is_forgiven(word: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(word) - 1))
    for wrong in (word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word[:at] + "x" + word[at + 1 :]):
        if mistakes_allowed(wrong):
            assert finds((wrong,), word)


def test_it_is_a_way_of_matching_that_is_asked_for() -> None:
    assert matches({"PatientName": "jorg muler"}, {"PatientName": NAME}, fuzzy_names=True)
    assert not matches({"PatientName": "jorg muler"}, {"PatientName": NAME})
    assert not matches({"PatientName": "jorg muler"}, {}, fuzzy_names=True)
