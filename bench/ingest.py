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
class _Load:
    modality: str
    count: int
    associations: int
    targets: tuple[Ratio, ...]

    @property
    def title(self) -> str:
        return f"{self.associations} association{'s' if self.associations > 1 else ''}, {self.count:,} {self.modality}"


def _load(modality: str, count: int, associations: int, *, storescp: float, orthanc: float) -> _Load:
    return _Load(modality, count, associations, (Ratio("pacs", "storescp", storescp), Ratio("pacs", "orthanc", orthanc)))


_LOADS = (
    _load("CT", 800, 1, storescp=1.0, orthanc=4.0),
    _load("MR", 2000, 1, storescp=0.9, orthanc=3.0),
    _load("CT", 800, 4, storescp=1.0, orthanc=4.0),
    _load("MR", 2000, 4, storescp=1.0, orthanc=4.0),
)


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    with scratch() as root:
        for number, load in enumerate(_LOADS):
            _compare(root / str(number), load, options)


def _compare(root: Path, load: _Load, options: Options) -> None:
    batches = Batches(root / "source", load.modality, options.scaled(load.count), load.associations)
    with ExitStack() as stack:
        pacs = stack.enter_context(ours(root / "pacs", listeners=2 if load.associations > 1 else 1))
        candidates = {
            "pacs": sender(pacs.scp, batches, settle=lambda: settle(pacs)),
            "storescp": sender(stack.enter_context(storescp(root / "storescp")), batches),
            "orthanc": sender(stack.enter_context(orthanc(root / "orthanc")), batches),
        }
        results = interleave(candidates, rounds=options.rounds)
    report(f"ingest, {load.title}", "instances/s", results, us="pacs", targets=load.targets)


if __name__ == "__main__":
    main()
