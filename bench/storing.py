"""Instances that nobody has seen before, and how fast DCMTK's storescu gets rid of them."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.peers import NODELAY
from tests.support.dcmtk import Scp
from tests.support.processes import clean_environment
from tests.support.synthetic import Study

ENVIRONMENT = clean_environment(**NODELAY)
MAXIMUM_PDU = ("--max-pdu", "131072")
_SERIES = 4


class Batches:
    """One folder of instances for each association, made anew for each round.

    Those of the rounds before stay: ext4 searches past each inode that was removed in the last minutes, which would cost whoever
    makes the next file. A comparison of three archives takes up to 10 GB.
    """

    def __init__(self, folder: Path, modality: str, count: int, associations: int = 1) -> None:
        self.modality = modality
        self._folder, self._associations = folder, associations
        self._per_series = count // associations // _SERIES

    @property
    def count(self) -> int:
        """Instances of one round."""
        return self._per_series * _SERIES * self._associations

    def of_round(self, number: int) -> Sequence[Path]:
        """The folders of a round."""
        folders = [self._folder / f"{number}-{i}" for i in range(self._associations)]
        for folder in folders:
            if not folder.exists():
                Study(self.modality, series=_SERIES, instances=self._per_series).write(folder)
        return folders


def sender(scp: Scp, batches: Batches, *, settle: Callable[[], object] = lambda: None) -> Callable[[int], float]:
    """Measures instances per second from the first connection to the last acknowledgement.

    Nobody pays for others: the clock starts when the disk has nothing left to write, and when it has stopped, `settle` waits for
    what the archive does later.
    """

    def send(number: int) -> float:
        folders = batches.of_round(number)
        os.sync()
        started = time.perf_counter()
        store(scp, folders)
        elapsed = time.perf_counter() - started
        settle()
        return batches.count / elapsed

    return send


def store_studies(scp: Scp, folder: Path, modality: str, count: int, *, per_study: int) -> None:
    """Make so many instances in a new folder, in studies of that size, and send them, each study on an association of its own."""
    for number in range(max(1, count // per_study)):
        Study(modality, instances=min(per_study, count)).write(folder / str(number))
    store(scp, sorted(folder.iterdir()))


def storescu_command(scp: Scp, folder: Path, *, calling: str = "TESTSCU") -> list[str]:
    """What sends a folder over one association; to be run in ENVIRONMENT."""
    return ["storescu", *MAXIMUM_PDU, "+sd", *scp.arguments(calling), str(folder)]


def store(scp: Scp, folders: Sequence[Path]) -> None:
    """Send folders, each on an association of its own, at the same time."""
    commands = [storescu_command(scp, folder) for folder in folders]
    clients = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    failed = [client.args for client in clients if client.wait()]
    if failed:
        raise SystemExit(f"failed: {failed}")
