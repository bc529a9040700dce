"""Medians of interleaved runs, printed as a table with ratios and targets."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Measure = Callable[[int], float]  # the number of the round to a figure
Figures = Mapping[str, Sequence[float]]  # the name of a row to its figure in each round
Medians = Mapping[str, float]


class Target(Protocol):
    """What we aim at."""

    def verdict(self, medians: Medians, unit: str) -> str:
        """The aim, what was reached, and whether that is enough."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A row of ours is at least `least` times a peer's."""

    row: str
    peer: str
    least: float

    def verdict(self, medians: Medians, unit: str) -> str:  # noqa: ARG002  # the unit cancels out
        """See Target."""
        reached = medians[self.row] / medians[self.peer]
        return f"{self.row} ≥ {self.least:.2g} × {self.peer}: {reached:.2f} × {_met(reached >= self.least)}"


@dataclass(frozen=True, slots=True)
class Limit:
    """A row of ours is at most `most`, in the table's unit."""

    row: str
    most: float

    def verdict(self, medians: Medians, unit: str) -> str:
        """See Target."""
        reached = medians[self.row]
        return f"{self.row} ≤ {self.most:g} {unit}: {_figure(reached)} {unit} {_met(reached <= self.most)}"


def interleave(candidates: Mapping[str, Measure], *, rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Run every candidate once a round, in turn, so that whatever else the machine does hits all alike.

    With `warm_up`, a round more comes first and is not counted: what is loaded at first use is nobody's speed.
    """
    results: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(-1 if warm_up else 0, rounds):
        for name, measure in candidates.items():
            figure = measure(number)
            if number >= 0:
                results[name].append(figure)
    return results


def report(title: str, unit: str, results: Figures, *, us: str | None = None, targets: Sequence[Target] = ()) -> None:
    """Print the median, lowest and highest figure of each row, our ratio to each peer if `us` names our row, and the targets."""
    medians = {name: statistics.median(values) for name, values in results.items()}
    rounds = max(len(values) for values in results.values())
    print(f"\n{title} ({unit}, median of {rounds})")
    for name, values in results.items():
        ratio = "" if us in (None, name) else f"   we: {medians[us or name] / medians[name]:.2f} ×"
        print(f"  {name:<34} {_figure(medians[name]):>10}   [{_figure(min(values))} … {_figure(max(values))}]{ratio}")
    for target in targets:
        print(f"  target: {target.verdict(medians, unit)}")


def _figure(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _met(reached: bool) -> str:
    return "met" if reached else "MISSED"
