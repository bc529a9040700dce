"""How a plan is followed: in shards, and what others are at work on once more in the end."""

from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from flows.operation import follow
from pacs_core.lifecycle.moving import Moved
from pacs_core.lifecycle.plan import Plan, Step
from pacs_core.model import UID


class Done(PrefectFuture[Any]):
    """A shard that has come to its end."""

    def __init__(self, result: Moved | None) -> None:  # that of the class is deprecated
        self._final_state = Failed() if result is None else Completed()
        self._result = result

    @property
    def state(self) -> State[Any]:
        assert self._final_state is not None
        return self._final_state

    def wait(self, timeout: float | None = None) -> None:
        """It is over."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        return self._result

    def add_done_callback(self, fn: Any) -> None:
        fn(self)


def steps(*targets: str) -> Plan:
    """Of two studies, to each of the targets."""
    return Plan(tuple(Step(study, "hot", target, 1, 100, target) for target in targets for study in (UID("1"), UID("2"))))


def test_a_study_that_another_shard_has_is_done_in_the_end() -> None:
    handed: list[tuple[int, list[str]]] = []

    def submit(number: int, shard: Sequence[Step]) -> PrefectFuture[Any]:
        handed.append((number, [f"{step.StudyInstanceUID} to {step.target}" for step in shard]))
        return Done(Moved(instances=1, busy=(UID("2"),)) if number == 2 else Moved(instances=len(shard)))

    assert follow(steps("vault", "packs"), submit, lambda: None, pauses=[0]) == (Moved(instances=4), 0)
    assert handed == [(1, ["1 to vault", "2 to vault"]), (2, ["1 to packs", "2 to packs"]), (3, ["2 to packs"])]


def test_a_study_that_stays_busy_is_left_to_the_other_run_and_told_once() -> None:
    handed: list[int] = []

    def submit(number: int, shard: Sequence[Step]) -> PrefectFuture[Any]:
        handed.append(number)
        return Done(Moved(busy=tuple(UID(step.StudyInstanceUID) for step in shard)))

    assert follow(steps("vault", "packs"), submit, lambda: None, pauses=[0, 0]) == (Moved(busy=(UID("1"), UID("2"))), 0)
    assert handed == [1, 2, 3, 4, 5, 6]


def test_a_shard_that_broke_off_is_counted_and_stops_no_other() -> None:
    done: list[None] = []

    def submit(number: int, shard: Sequence[Step]) -> PrefectFuture[Any]:
        return Done(None if number == 1 else Moved(instances=2))

    assert follow(steps("vault", "packs"), submit, lambda: done.append(None)) == (Moved(instances=2), 1)
    assert len(done) == 2
