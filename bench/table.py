"""Medians of interleaved runs, printed as a table with ratios."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Measure = Callable[[int], float]  # the number of the round to a figure


@dataclass(frozen=True, slots=True)
class Target:
    """What we aim at: at least `ratio` times the peer's figure."""

    peer: str
    ratio: float


def interleave(candidates: Mapping[str, Measure], *, rounds: int) -> dict[str, list[float]]:
    """Run every candidate once a round, in turn, so that whatever else the machine does hits all alike."""
    results: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name, measure in candidates.items():
            results[name].append(measure(number))
    return results


def report(title: str, unit: str, results: Mapping[str, Sequence[float]], *, us: str, targets: Sequence[Target] = ()) -> None:
    """Print the median, lowest and highest figure of each candidate, and our ratio to each peer."""
    medians = {name: statistics.median(values) for name, values in results.items()}
    print(f"\n{title} ({unit}, median of {len(results[us])})")
    for name, values in results.items():
        ratio = "" if name == us else f"   we: {medians[us] / medians[name]:.2f} ×"
        print(f"  {name:<28} {medians[name]:>10.1f}   [{min(values):.1f} … {max(values):.1f}]{ratio}")
    for target in targets:
        reached = medians[us] / medians[target.peer]
        print(f"  target ≥ {target.ratio:.1f} × {target.peer}: {reached:.2f} × {'met' if reached >= target.ratio else 'MISSED'}")
