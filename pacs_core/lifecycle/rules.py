"""Rules: which studies move when, as an administrator states them. Pure.

A rule names studies by what the index knows of them; `fill` says how full a tier has to be before the rule acts at all, and how
far it then empties it, oldest study first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pacs_core.lifecycle.plan import Step
from pacs_core.model import StudyFacts


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions that a study must all meet; what is empty or None asks nothing.

    Attributes:
        received_before: its newest instance is older.
        used_before: it has not been received or retrieved since.
        modalities: it has a series of one of them.
        at_least, at_most: bytes on the tier.
        study: it is this one.
    """

    received_before: datetime | None = None
    used_before: datetime | None = None
    modalities: tuple[str, ...] = ()
    at_least: int = 0
    at_most: int | None = None
    study: str = ""

    def admits(self, facts: StudyFacts) -> bool:
        """Whether a study meets all conditions."""
        return (
            (self.received_before is None or facts.received_at < self.received_before)
            and (self.used_before is None or facts.used_at < self.used_before)
            and (not self.modalities or any(modality in self.modalities for modality in facts.modalities))
            and facts.bytes >= self.at_least
            and (self.at_most is None or facts.bytes <= self.at_most)
            and (not self.study or facts.StudyInstanceUID == self.study)
        )


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Shares of a tier's room, 0 to 1: above `high` a rule acts, until what stays is below `low`."""

    high: float
    low: float


@dataclass(frozen=True, slots=True)
class Fill:
    """Bytes of a tier that are used, and that there are."""

    used: int
    capacity: int


def steps_of(policy: str, target: str, selection: Selection, facts: Iterable[StudyFacts]) -> Sequence[Step]:
    """A step for each study that a selection admits, least recently used first."""
    chosen = sorted((each for each in facts if selection.admits(each)), key=lambda each: (each.used_at, each.StudyInstanceUID))
    return [Step(each.StudyInstanceUID, each.tier, target, each.instances, each.bytes, policy) for each in chosen]


def down_to(watermarks: Watermarks, fill: Fill, steps: Sequence[Step]) -> Sequence[Step]:
    """The first of the steps, as many as bring a tier from above its high mark below its low one; none if it is not above."""
    if fill.used <= watermarks.high * fill.capacity:
        return ()
    excess = fill.used - watermarks.low * fill.capacity
    chosen: list[Step] = []
    for step in steps:
        if excess <= 0:
            break
        chosen.append(step)
        excess -= step.bytes
    return chosen


@dataclass(frozen=True, slots=True)
class MigrationRule:
    """Studies that move from a tier to another."""

    name: str
    source: str
    target: str
    selection: Selection
    watermarks: Watermarks | None = None


def plan_migration(
    rules: Iterable[MigrationRule], facts: Callable[[str], Iterable[StudyFacts]], fill: Callable[[str], Fill]
) -> Sequence[Step]:
    """The steps that rules ask for now; a study follows the first rule that names it.

    Args:
        facts: the studies of a tier; asked once for each.
        fill: how full a tier is; asked where a rule has watermarks.
    """
    known: dict[str, Sequence[StudyFacts]] = {}
    taken: set[tuple[str, str]] = set()
    steps: list[Step] = []
    for rule in rules:
        if rule.source not in known:
            known[rule.source] = list(facts(rule.source))
        chosen = steps_of(rule.name, rule.target, rule.selection, known[rule.source])
        chosen = [step for step in chosen if (step.StudyInstanceUID, step.source) not in taken]
        if rule.watermarks is not None:
            chosen = list(down_to(rule.watermarks, fill(rule.source), chosen))
        taken.update((step.StudyInstanceUID, step.source) for step in chosen)
        steps += chosen
    return steps


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Studies that are removed, from the tiers named."""

    name: str
    tiers: tuple[str, ...]
    selection: Selection


def plan_retention(rules: Iterable[RetentionRule], facts: Callable[[str], Iterable[StudyFacts]]) -> Sequence[Step]:
    """The steps that rules ask for now; a study follows the first rule that names it, and one on hold none.

    Args:
        facts: the studies of a tier; asked once for each.
    """
    known: dict[str, Sequence[StudyFacts]] = {}
    policy_of: dict[str, str] = {}
    steps: list[Step] = []
    for rule in rules:
        for tier in rule.tiers:
            if tier not in known:
                known[tier] = [each for each in facts(tier) if not each.on_hold]
            chosen = steps_of(rule.name, "", rule.selection, known[tier])
            steps += [step for step in chosen if policy_of.setdefault(step.StudyInstanceUID, rule.name) == rule.name]
    return steps


def instances_named(step: Step, rules: Iterable[RetentionRule], facts: Callable[[str], Iterable[StudyFacts]]) -> int:
    """Of how many instances the step would be if it were planned now; 0 if its rule no longer names its study.

    Args:
        facts: the step's study on a tier.
    """
    now = plan_retention(rules, facts)
    return sum(each.instances for each in now if replace(each, instances=0, bytes=0) == replace(step, instances=0, bytes=0))


@dataclass(frozen=True, slots=True)
class ArchivalRule:
    """Studies of which a copy is made."""

    name: str
    tiers: tuple[str, ...]
    destination: str
    selection: Selection


def plan_archival(
    rules: Iterable[ArchivalRule], facts: Callable[[str], Iterable[StudyFacts]], copied: Callable[[str], Mapping[str, int]]
) -> Sequence[Step]:
    """The steps that rules ask for now; studies of which every instance has a copy at the destination are left out.

    Args:
        facts: the studies of a tier; asked once for each.
        copied: how many instances of which study have a copy at a destination.
    """
    known: dict[str, Sequence[StudyFacts]] = {}
    steps: list[Step] = []
    for rule in rules:
        sources = [tier for tier in rule.tiers if tier != rule.destination]
        for tier in sources:
            if tier not in known:
                known[tier] = list(facts(tier))
        there, held = copied(rule.destination), Counter[str]()
        for tier in sources:
            held.update({each.StudyInstanceUID: each.instances for each in known[tier]})
        for tier in sources:
            chosen = steps_of(rule.name, rule.destination, rule.selection, known[tier])
            steps += [step for step in chosen if there.get(step.StudyInstanceUID, 0) < held[step.StudyInstanceUID]]
    return steps
