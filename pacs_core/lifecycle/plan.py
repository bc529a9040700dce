"""A plan: which studies an operation is to work on, and why. Pure; a flow shows it, stores it, cuts it into shards and follows it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from math import ceil
from typing import Any

from pacs_core.model import UID

_LARGE = 0.5  # of a shard


@dataclass(frozen=True, slots=True)
class Step:
    """One study's part of a plan.

    Attributes:
        source: the tier that its objects are on.
        target: the tier or destination they are for; "" where there is none.
        instances: how many are expected. What is there when the step is taken counts.
        bytes: of their objects.
        policy: the rule that asks for it, or "manual".
    """

    StudyInstanceUID: UID
    source: str
    target: str
    instances: int
    bytes: int
    policy: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one run, in the order in which they were chosen."""

    steps: tuple[Step, ...] = ()

    @property
    def instances(self) -> int:
        """Of all steps."""
        return sum(step.instances for step in self.steps)

    @property
    def bytes(self) -> int:
        """Of all steps."""
        return sum(step.bytes for step in self.steps)

    def shards(self, *, instances: int, bytes: int) -> Sequence[tuple[Step, ...]]:  # noqa: A002  # its unit
        """Runs of steps of one source, target and policy, within both limits and about equally large, so that workers end together.

        A study of more than half of a limit is a shard of its own.
        """

        def weight(step: Step) -> float:
            return max(step.instances / instances, step.bytes / bytes)

        large = [(step,) for step in self.steps if weight(step) > _LARGE]
        small = [step for step in self.steps if weight(step) <= _LARGE]
        return [*large, *(shard for _, run in groupby(small, _kind) for shard in _evenly(list(run), weight))]

    def to_json(self) -> Mapping[str, Any]:
        """As it is stored."""
        return {"steps": [asdict(step) for step in self.steps]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Plan":
        """As it was stored."""
        return cls(tuple(Step(**step) for step in stored["steps"]))


def capped(steps: Iterable[Step], *, studies: int | None = None, bytes: int | None = None) -> Plan:  # noqa: A002  # its unit
    """The first steps, up to so many studies and bytes; None is no limit. A study that does not fit is left out, smaller ones follow."""
    chosen: list[Step] = []
    left = bytes
    for step in steps:
        if studies is not None and len(chosen) >= studies:
            break
        if left is not None:
            if step.bytes > left:
                continue
            left -= step.bytes
        chosen.append(step)
    return Plan(tuple(chosen))


def _evenly(steps: Sequence[Step], weight: Callable[[Step], float]) -> Iterator[tuple[Step, ...]]:
    """Steps in order, as few runs of about the same weight as stay within 1: a run is as heavy as all others, give or take a step."""
    total = sum(map(weight, steps))
    runs = max(1, ceil(total / (1 - max(map(weight, steps)))))
    done = 0.0

    def run_of(step: Step) -> int:
        nonlocal done
        middle, done = done + weight(step) / 2, done + weight(step)
        return min(int(middle / total * runs), runs - 1) if total else 0

    for _, run in groupby(steps, run_of):
        yield tuple(run)


def _kind(step: Step) -> tuple[str, str, str]:
    return step.source, step.target, step.policy
