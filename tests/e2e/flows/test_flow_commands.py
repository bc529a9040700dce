"""`pacs flow` on the running archive: schedules, statistics, the end of a run before its time."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pacs_core.supervisor.runtime import read_runtime
from tests.support.archive import Archive
from tests.support.processes import assert_succeeded
from tests.support.waiting import eventually

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("flow-commands")]


def rows(archive: Archive, *command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(assert_succeeded(archive.run_pacs("flow", *command, "--format", "json")).stdout)
    return found


def test_statistics_count_runs_and_what_is_only_scheduled_is_no_run(archive: Archive) -> None:
    (before,) = rows(archive, "stats", "verify")
    assert_succeeded(archive.run_pacs("flow", "run", "verify", "-P", "dry_run=true", timeout=200))
    (after,) = rows(archive, "stats", "verify", "--days", "1")
    assert after["completed"] >= before["completed"] + 1
    assert after["runs"] <= len(rows(archive, "history", "verify", "--limit", "200"))
    assert after["mean_seconds"] > 0
    assert after["last_success"]


@contextmanager
def workers_that_stand_still(archive: Archive) -> Iterator[None]:
    """No task gets anywhere meanwhile."""
    runtime = read_runtime(archive.home)
    assert runtime is not None
    pids = [part.pid for part in runtime.parts if part.name.startswith("dask-worker") and part.pid]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_run_that_waits_or_works_is_cancelled(archive: Archive) -> None:
    def state() -> str:
        return next((row["state"] for row in rows(archive, "history", "verify") if row["id"] == run_id), "")

    with workers_that_stand_still(archive):  # it must not be done before it is cancelled
        started = assert_succeeded(archive.run_pacs("flow", "run", "verify", "--no-wait"))
        run_id = started.stdout.split("(")[1].split(")")[0]
        assert_succeeded(archive.run_pacs("flow", "cancel", run_id))
        eventually(lambda: state() == "Cancelled", within=60, what="the end of the run")
    again = archive.run_pacs("flow", "cancel", run_id)
    assert again.returncode == 1
    assert "has ended already: Cancelled" in again.stdout


@pytest.mark.parametrize("options", [(), ("--cron", "0 0 * * *", "--none"), ("--interval", "soon"), ("--once", "2020-01-01T00:00")])
def test_a_schedule_that_is_none_is_told(archive: Archive, options: tuple[str, ...]) -> None:
    done = archive.run_pacs("flow", "schedule", "verify", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout


def test_a_cron_line_that_prefect_refuses_changes_nothing(archive: Archive) -> None:
    done = archive.run_pacs("flow", "schedule", "verify", "--cron", "99 * * * *")
    assert done.returncode == 1
    assert "Invalid cron" in done.stdout
    (flow,) = (row for row in rows(archive, "list") if row["flow"] == "verify")
    assert flow["schedule"] == "30 2 * * * UTC"
