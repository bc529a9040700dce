"""What a recall says about its outcome."""

from flows.recall import Recalled
from pacs_core.lifecycle.recalling import RecalledStudy
from pacs_core.model import UID


def test_the_outcome_is_one_sentence() -> None:
    assert Recalled.of([]).sentence == "no study is wanted"
    found = [RecalledStudy(UID("1"), online=3), RecalledStudy(UID("2"), asked=2, rehydrating=1)]
    assert Recalled.of(found).sentence == "1 of 2 studies can be read; 2 objects were asked for, 1 before"
    failed = [*found, RecalledStudy(UID("3"), failed=4, reason="away")]
    assert Recalled.of(failed).sentence.startswith("4 objects could not be asked for; 1 of 3 studies")
