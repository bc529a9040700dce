"""A plan: which studies an operation is to work on, and why. Pure; a flow shows it, stores it, cuts it into shards and follows it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pacs_core.model import UID


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
    """The steps of one run, in the order in which they are taken."""

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
        """Runs of steps of one source, target and policy, within both limits; a study beyond them is a shard of its own."""
        shards: list[list[Step]] = []
        room = (0, 0)
        for step in self.steps:
            fits = step.instances <= room[0] and step.bytes <= room[1]
            if shards and fits and _kind(shards[-1][0]) == _kind(step):
                shards[-1].append(step)
                room = (room[0] - step.instances, room[1] - step.bytes)
            else:
                shards.append([step])
                room = (instances - step.instances, bytes - step.bytes)
        return [tuple(shard) for shard in shards]

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


def _kind(step: Step) -> tuple[str, str, str]:
    return step.source, step.target, step.policy
