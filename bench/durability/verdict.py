"""How a durability bench reports: a table while it runs, and a last line that says PASS or FAIL."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_SHOWN = 20  # problems; the rest is counted


@dataclass(slots=True)
class Verdict:
    """What a bench found.

    Attributes:
        title: what was tried.
        counts: the figures of the last line, in order.
        problems: what must never happen.
        late: what came right, but not in the time that is promised; whoever shares its machine does not assert this.
    """

    title: str
    counts: dict[str, int | str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def count(self, name: str, number: int = 1) -> None:
        """Add to a figure."""
        self.counts[name] = int(self.counts.get(name, 0)) + number

    def require(self, holds: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(problem)

    def within(self, seconds: float, limit: float, what: str) -> None:
        """Note what took longer than it may."""
        if seconds > limit:
            self.late.append(f"{what}: {seconds:.1f} s, {limit:g} s are promised")

    def conclude(self) -> int:
        """Print the problems and the last line; the exit status."""
        found = [*self.problems, *self.late]
        for problem in found[:_SHOWN]:
            print(f"  ! {problem}")
        if len(found) > _SHOWN:
            print(f"  ! and {len(found) - _SHOWN} more")
        figures = ", ".join(f"{number:,} {name}" if isinstance(number, int) else f"{name} {number}" for name, number in self.counts.items())
        print(f"{'FAIL' if found else 'PASS'} {self.title}: {figures}", flush=True)
        return 1 if found else 0


class Table:
    """Rows that are printed as they come, for runs that take an hour."""

    def __init__(self, title: str, **columns: str) -> None:
        """`columns`: the format of each name's cells, such as `>5`; an underscore in a name stands for a space."""
        self._formats = list(columns.values())
        print(f"\n{title}")
        self.row(*(name.replace("_", " ") for name in columns))

    def row(self, *cells: object) -> None:
        """One line."""
        texts = (f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells)
        print("  " + "  ".join(f"{text:{form}}" for text, form in zip(texts, self._formats, strict=True)).rstrip(), flush=True)


def distribution(values: Iterable[float]) -> str:
    """The median, the 99th percentile and the largest of some seconds."""
    ordered = sorted(values)
    if not ordered:
        return "-"
    return f"{ordered[len(ordered) // 2]:.2f}/{percentile(ordered, 99):.2f}/{ordered[-1]:.2f} s"


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The value that so many percent of the ordered values do not exceed."""
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def options(description: str | None, *, rounds: int, quick: int) -> argparse.ArgumentParser:
    """The command line that every bench has; `chosen_rounds` reads it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=None, help=f"default: {rounds}; with --quick {quick}")
    parser.add_argument("--quick", action="store_true", help="a small part of it")
    parser.add_argument("--seed", type=int, default=None, help="repeats the random choices of an earlier run")
    parser.set_defaults(full_rounds=rounds, quick_rounds=quick)
    return parser


def chosen_rounds(chosen: argparse.Namespace) -> int:
    """How many rounds the command line asks for."""
    if chosen.rounds is not None:
        return int(chosen.rounds)
    return int(chosen.quick_rounds if chosen.quick else chosen.full_rounds)
