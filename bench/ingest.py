"""Ingest: `python -m bench.ingest [--rounds 5] [--quick]`. Instances per second that DCMTK's storescu gets rid of.

Needs 25 GB of disk: nothing is removed before the end (see storing.Batches).
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.command import Options, parse, scratch
from bench.peers import orthanc, ours, settle, storescp
from bench.storing import Batches, sender
from bench.table import Ratio, interleave, report


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent at a time, and what we aim at."""

    modality: str
    count: int
    associations: int
    targets: tuple[Ratio, ...]

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.associations} association{'s' if self.associations > 1 else ''}, {self.count:,} {self.modality}"

    @property
    def listeners(self) -> int:
        """Processes of ours that receive it: there are two cores."""
        return min(self.associations, 2)

    def batches(self, folder: Path, options: Options) -> Batches:
        """The instances of all rounds."""
        return Batches(folder, self.modality, options.scaled(self.count), self.associations)


def _load(modality: str, count: int, associations: int, *, storescp: float, orthanc: float) -> Load:
    return Load(modality, count, associations, (Ratio("pacs", "storescp", storescp), Ratio("pacs", "orthanc", orthanc)))


LOADS = (
    _load("CT", 800, 1, storescp=1.0, orthanc=4.0),
    _load("MR", 2000, 1, storescp=0.9, orthanc=3.0),
    _load("CT", 800, 4, storescp=1.0, orthanc=4.0),
    _load("MR", 2000, 4, storescp=1.0, orthanc=4.0),
)


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    with scratch() as root:
        for number, load in enumerate(LOADS):
            _compare(root / str(number), load, options)


def _compare(root: Path, load: Load, options: Options) -> None:
    batches = load.batches(root / "source", options)
    with ExitStack() as stack:
        pacs = stack.enter_context(ours(root / "pacs", listeners=load.listeners))
        candidates = {
            "pacs": sender(pacs.scp, batches, settle=lambda: settle(pacs)),
            "storescp": sender(stack.enter_context(storescp(root / "storescp")), batches),
            "orthanc": sender(stack.enter_context(orthanc(root / "orthanc")), batches),
        }
        results = interleave(candidates, rounds=options.rounds)
    report(f"ingest, {load.title}", "instances/s", results, us="pacs", targets=load.targets)


if __name__ == "__main__":
    main()
