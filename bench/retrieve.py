"""Retrieve: `python -m bench.retrieve [--rounds 5] [--quick]`. Instances per second of a C-MOVE to storescp and of a C-GET.

The clients are DCMTK's movescu and getscu. Every run is checked: all files with all their bytes, or the benchmark ends.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.command import Options, parse, scratch
from bench.peers import orthanc, ours, settle, storescp
from bench.storing import ENVIRONMENT, MAXIMUM_PDU, store
from bench.table import Ratio, interleave, report
from tests.support.dcmtk import Scp
from tests.support.part10 import dataset_offset
from tests.support.processes import assert_succeeded, free_ports
from tests.support.synthetic import Study

_STUDIES = (("CT", 200), ("MR", 500))
_SERIES = 4
_DESTINATION = "DESTINATION"


@dataclass(frozen=True, slots=True)
class _Held:
    """A study that the archives hold."""

    modality: str
    uid: str
    instances: int
    bytes: int  # of its data sets

    def check(self, folder: Path) -> None:
        """SystemExit unless the whole study has arrived."""
        files = list(folder.iterdir())
        received = _data_set_bytes(files)
        if (len(files), received) != (self.instances, self.bytes):
            raise SystemExit(f"{len(files)} of {self.instances} instances, {received} of {self.bytes} bytes were received")


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    (port,) = free_ports(1)
    with scratch() as root, ExitStack() as stack:
        pacs = stack.enter_context(ours(root / "pacs"))
        assert_succeeded(pacs.run_pacs("peer", "add", _DESTINATION, "127.0.0.1", str(port)))
        archives = {"pacs": pacs.scp, "orthanc": stack.enter_context(orthanc(root / "orthanc", destinations={_DESTINATION: port}))}
        moved, got = root / "moved", root / "got"
        got.mkdir()
        stack.enter_context(storescp(moved, port=port, ae_title=_DESTINATION))
        for modality, count in _STUDIES:
            study = _fill(root / modality, archives.values(), modality, options.scaled(count))
            settle(pacs)
            _compare("C-MOVE", ["movescu", "-aem", _DESTINATION], moved, archives, study, options)
            _compare("C-GET", ["getscu", "+B", "-od", str(got)], got, archives, study, options)


def _fill(source: Path, archives: Iterable[Scp], modality: str, count: int) -> _Held:
    study = Study(modality, series=_SERIES, instances=count // _SERIES)
    files = study.write(source)
    for scp in archives:
        store(scp, [source])
    return _Held(modality, study.uid, len(files), _data_set_bytes(files))


def _compare(service: str, client: Sequence[str], folder: Path, archives: Mapping[str, Scp], study: _Held, options: Options) -> None:
    candidates = {name: _retriever([*client, *_arguments(scp, study)], folder, study) for name, scp in archives.items()}
    results = interleave(candidates, rounds=options.rounds)
    title = f"{service}, {study.instances} {study.modality}"
    report(title, "instances/s", results, us="pacs", targets=[Ratio("pacs", "orthanc", 1.2)])


def _arguments(scp: Scp, study: _Held) -> list[str]:
    return ["-S", *MAXIMUM_PDU, *scp.arguments(), "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.uid}"]


def _retriever(command: Sequence[str], folder: Path, study: _Held) -> Callable[[int], float]:
    def retrieve(_: int) -> float:
        # Nobody pays for the files of others, written or removed: ext4 searches past each inode that was removed in the last minutes.
        kept = Path(tempfile.mkdtemp(dir=folder.parent))
        for path in folder.iterdir():
            path.rename(kept / path.name)
        os.sync()
        started = time.perf_counter()
        status = subprocess.run(command, env=ENVIRONMENT, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
        elapsed = time.perf_counter() - started
        if status != 0:
            raise SystemExit(f"exit status {status}: {' '.join(command)}")
        study.check(folder)
        return study.instances / elapsed

    return retrieve


def _data_set_bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size - dataset_offset(path) for path in files)


if __name__ == "__main__":
    main()
