"""`make up` as a user types it: from the environment to the archive, and from a signal to nothing left."""

import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.support import dcmtk
from tests.support.archive import Archive
from tests.support.processes import Daemon, assert_succeeded

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_make_and_everything_it_started(tmp_path: Path, sig: signal.Signals) -> None:
    archive = Archive(tmp_path / "home")  # for its ports and its environment
    # -o: the environment that runs this test counts as installed.
    command: list[str | Path] = ["make", "-C", ROOT, "-o", f"{sys.prefix}/.installed", "up", f"VENV={sys.prefix}"]
    make = Daemon(command, log=tmp_path / "make.log", env=archive.env)
    try:
        make.wait_for("pacs ready:", within=90)
        assert_succeeded(dcmtk.echoscu(archive.scp))
        started = psutil.Process(make.process.pid).children(recursive=True)
        assert len(started) > 5
        if sig is signal.SIGINT:  # a terminal sends Ctrl-C to the whole foreground group
            started[0].send_signal(sig)
    finally:
        make.stop(within=60, sig=sig)
    _, left = psutil.wait_procs(started, timeout=10)
    assert [process.name() for process in left] == []
