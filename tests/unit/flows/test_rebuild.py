"""What a rebuild says about its outcome."""

import pytest

from flows.rebuild import Rebuilt
from pacs_core.lifecycle.rebuilding import Merged, Reason, Scanned, Unindexed

LOST = Unindexed(Reason.UNREADABLE, "hot", "a.dcm", "cut short")
OTHER = Unindexed(Reason.DIFFERENT, "warm", "b.dcm", "other bytes", "1.2")


@pytest.mark.parametrize(
    ("scanned", "merged", "sentence"),
    [
        (Scanned(7, 70), Merged(inserted=7), "7 instances were indexed, 0 were already"),
        (
            Scanned(7, 70),
            Merged(inserted=1, present=3, relocated=2, copies=1),
            "1 instances were indexed, 3 were already, 2 were relocated, 1 further copies are known",
        ),
        (
            Scanned(7, 70, (LOST, LOST)),
            Merged(inserted=4, problems=(OTHER,)),
            "3 of 7 objects are not indexed: 2 unreadable, 1 different; 4 instances were indexed, 0 were already",
        ),
    ],
)
def test_the_outcome_is_one_sentence(scanned: Scanned, merged: Merged, sentence: str) -> None:
    assert Rebuilt.of(scanned, merged).sentence == sentence
