"""What a verification says about its outcome."""

import pytest

from flows.verify import Verification


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (Verification(instances=7), "7 objects are intact"),
        (Verification(instances=7, missing=1, corrupt=2), "3 objects are damaged: 1 missing, 2 corrupt (of 7 checked)"),
        (
            Verification(instances=7, missing=1, corrupt=2, repaired=2),
            "3 objects are damaged: 1 missing, 2 corrupt (of 7 checked); 2 are repaired",
        ),
        (Verification(instances=7, orphan=1, unfinished=1), "1 objects are damaged: 1 orphan (of 7 checked)"),
        (Verification(instances=7, shards=4, unfinished=2), "2 of 4 shards could not be checked"),
    ],
)
def test_the_outcome_is_one_sentence(found: Verification, sentence: str) -> None:
    assert found.sentence == sentence
