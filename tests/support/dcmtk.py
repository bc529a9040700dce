"""DCMTK's command line tools as clients of an archive."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from pydicom import Dataset, dcmread

from tests.support.processes import assert_succeeded, daemon, run

_STATUS = re.compile(r"DIMSE Status\s*: 0x([0-9a-fA-F]{4})")
_COUNTERS = re.compile(r"(Remaining|Completed|Failed|Warning) Suboperations\s*: (\d+)")
MODELS = {"patient": "-P", "study": "-S", "worklist": "-W"}


@dataclass(frozen=True, slots=True)
class Scp:
    """The archive as its clients see it."""

    port: int
    ae_title: str = "PACS"
    host: str = "127.0.0.1"

    def arguments(self, calling: str = "TESTSCU") -> list[str]:
        """What every DCMTK client wants to know first."""
        return ["-aet", calling, "-aec", self.ae_title, self.host, str(self.port)]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What movescu or getscu reported at its end."""

    status: int
    counters: Mapping[str, int]  # remaining, completed, failed, warning: as the final response has them
    output: str
    exit_status: int


def echoscu(scp: Scp, *, calling: str = "TESTSCU") -> "CompletedProcess[str]":
    """C-ECHO."""
    return run(["echoscu", "-v", *scp.arguments(calling)])


def storescu(scp: Scp, files: Sequence[Path], *options: str, calling: str = "TESTSCU") -> "CompletedProcess[str]":
    """C-STORE of files, or of folders with the options +sd +r. `-R` proposes only what the files need."""
    return run(["storescu", "-v", *options, *scp.arguments(calling), *files], timeout=600)


def findscu(scp: Scp, directory: Path, model: str, level: str, keys: Mapping[str, str], *options: str) -> list[Dataset]:
    """C-FIND; the responses in order. `keys` are DCMTK paths (keywords, or `Sequence[0].Keyword`) to values. A worklist has no level."""
    directory.mkdir(parents=True, exist_ok=True)
    arguments: list[str | Path] = [
        "findscu",
        MODELS[model],
        "-X",
        "-od",
        directory,
        *options,
        *scp.arguments(),
    ]
    if level:
        arguments += ["-k", f"QueryRetrieveLevel={level}"]
    for keyword, value in keys.items():
        arguments += ["-k", f"{keyword}={value}" if value else keyword]
    assert_succeeded(run(arguments))
    return [dcmread(path) for path in sorted(directory.glob("rsp*.dcm"))]


def movescu(scp: Scp, destination: str, model: str, level: str, keys: Mapping[str, str], *options: str) -> Retrieval:
    """C-MOVE to a destination that the archive knows."""
    return _retrieve(["movescu", MODELS[model], "-aem", destination], scp, level, keys, options)


def getscu(scp: Scp, directory: Path, model: str, level: str, keys: Mapping[str, str], *options: str) -> Retrieval:
    """C-GET into a directory, bytes as received."""
    directory.mkdir(parents=True, exist_ok=True)
    return _retrieve(["getscu", MODELS[model], "+B", "-od", str(directory)], scp, level, keys, options)


@contextmanager
def storescp(directory: Path, *, port: int, ae_title: str, options: Sequence[str] = ()) -> Iterator[Path]:
    """A C-MOVE destination that keeps what it receives, bytes as received."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["storescp", "-v", "--fork", "+xa", "+B", "+uf", "-aet", ae_title, "-od", str(directory), *options, str(port)]
    with daemon(command, log=directory.with_suffix(".log")) as scp:
        scp.wait_for_port(port, within=10)
        yield directory


def _retrieve(command: Sequence[str], scp: Scp, level: str, keys: Mapping[str, str], options: Sequence[str]) -> Retrieval:
    arguments = [*command, "-d", *options, *scp.arguments(), "-k", f"QueryRetrieveLevel={level}"]
    for keyword, value in keys.items():
        arguments += ["-k", f"{keyword}={value}"]
    done = run(arguments, timeout=600)
    statuses = _STATUS.findall(done.stdout)
    final = done.stdout.rpartition("DIMSE Status")[0].rpartition("INCOMING DIMSE MESSAGE")[2]
    counters = {name.lower(): int(count) for name, count in _COUNTERS.findall(final)}
    return Retrieval(int(statuses[-1], 16) if statuses else -1, counters, done.stdout, done.returncode)
