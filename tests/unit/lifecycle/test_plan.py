"""How a plan is cut into shards."""

import pytest

from pacs_core.lifecycle.plan import Plan, Step
from pacs_core.model import UID


def step(number: int, instances: int, size: int = 1, target: str = "warm") -> Step:
    return Step(UID(f"1.{number}"), "hot", target, instances, size, "rule")


def sizes(plan: Plan, *, instances: int = 10, size: int = 1000) -> list[int]:
    return [sum(each.instances for each in shard) for shard in plan.shards(instances=instances, bytes=size)]


@pytest.mark.parametrize("studies", [1, 2, 7, 8, 9, 100])
def test_shards_are_about_equally_large_and_within_the_limit(studies: int) -> None:
    plan = Plan(tuple(step(number, 2) for number in range(studies)))
    found = sizes(plan)
    assert sum(found) == plan.instances
    assert max(found) <= 10
    assert max(found) - min(found) <= 2
    assert len(found) <= 1 + plan.instances / 8


def test_bytes_are_a_limit_too() -> None:
    plan = Plan(tuple(step(number, 1, size=300) for number in range(8)))
    assert sizes(plan) == [2, 2, 2, 2]


def test_every_step_is_in_one_shard_and_their_order_is_kept() -> None:
    plan = Plan(tuple(step(number, 1 + number % 5) for number in range(50)))
    assert [each for shard in plan.shards(instances=10, bytes=1000) for each in shard] == list(plan.steps)


def test_a_large_study_is_a_shard_of_its_own() -> None:
    plan = Plan((step(1, 1), step(2, 25), step(3, 1)))
    assert sizes(plan) == [25, 2]


def test_a_shard_has_one_target() -> None:
    plan = Plan((step(1, 1), step(2, 1, target="cold")))
    assert [shard[0].target for shard in plan.shards(instances=10, bytes=1000)] == ["warm", "cold"]


def test_steps_of_nothing_are_a_shard() -> None:
    assert sizes(Plan((step(1, 0, 0), step(2, 0, 0)))) == [0]
    assert sizes(Plan()) == []
