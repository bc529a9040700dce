"""The command line that all benchmarks share, and the folder that each works in."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        rounds: how often everybody is measured.
        quick: measure a tenth, to see whether the benchmark works; its figures mean little.
    """

    rounds: int
    quick: bool

    def scaled(self, count: int) -> int:
        """The count, or a tenth of it."""
        return max(1, count // 10) if self.quick else count


def parse(description: str | None) -> Options:
    """The options of this process."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="how often everybody is measured (default 5)")
    parser.add_argument("--quick", action="store_true", help="measure a tenth, to see whether it works")
    options = parser.parse_args()
    return Options(options.rounds, options.quick)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder beside the working directory: on a disk, which /tmp need not be."""
    with tempfile.TemporaryDirectory(prefix="pacs-bench-", dir=Path.cwd().parent) as folder:
        root = Path(folder)
        root.chmod(0o711)  # PostgreSQL's own user passes through
        yield root
