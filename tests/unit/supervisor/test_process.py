"""Logs within bounds, and what a killed supervisor leaves behind."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pacs_core.supervisor import process
from pacs_core.supervisor.process import bound_log, leftovers, sweep


def test_a_long_log_is_kept_aside_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LOG_LIMIT", 10)
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(6):
            writer.write(b"%d" % number * 10)
            bound_log(log)
        writer.write(b"now")
    assert log.read_bytes() == b"now"
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["part.log", "part.log.1", "part.log.2", "part.log.3"]
    assert (tmp_path / "part.log.1").read_bytes() == b"5" * 10


def test_a_short_or_absent_log_is_left_alone(tmp_path: Path) -> None:
    bound_log(tmp_path / "absent.log")
    (tmp_path / "short.log").write_text("short")
    bound_log(tmp_path / "short.log")
    assert (tmp_path / "short.log").read_text() == "short"


def test_a_log_that_cannot_be_kept_aside_is_started_again_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"012")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(process, "_LOG_LIMIT", 10)
    monkeypatch.setattr(shutil, "copyfile", full)
    log = tmp_path / "part.log"
    log.write_bytes(b"0123456789")
    with pytest.raises(OSError, match="No space"):
        bound_log(log)
    assert log.read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["part.log"]


SLEEP = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


@pytest.mark.parametrize("code", [SLEEP, STUBBORN])
def test_leftovers_of_this_home_are_stopped_and_others_are_not(tmp_path: Path, code: str) -> None:
    def start(home: Path, **marks: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-S", "-c", code], env={**os.environ, "PACS_HOME": str(home), **marks})

    ours = start(tmp_path / "a", PACS_PART="web")
    others = start(tmp_path / "b", PACS_PART="web"), start(tmp_path / "a")  # another home; a command that somebody typed
    try:
        assert asyncio.run(sweep(tmp_path / "a", grace=0.5)) == [ours.pid]
        assert ours.wait(10) < 0
        assert [each.poll() for each in others] == [None, None]
        assert list(leftovers(tmp_path / "a")) == []
    finally:
        for each in (ours, *others):
            each.kill()
            each.wait()


def test_postgres_is_not_swept_because_it_has_a_checkpoint_to_write(tmp_path: Path) -> None:
    cluster = tmp_path / "postgres"
    cluster.mkdir()
    marks = {"PACS_HOME": str(tmp_path), "PACS_PART": "postgres"}
    server = subprocess.Popen([sys.executable, "-S", "-c", SLEEP], cwd=cluster, env={**os.environ, **marks})
    try:
        assert list(leftovers(tmp_path)) == [server.pid]
        (cluster / "postmaster.pid").write_text(f"{server.pid}\n{cluster}\n")
        assert asyncio.run(sweep(tmp_path, grace=0.1)) == []
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()
