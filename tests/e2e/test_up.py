"""`pacs up` as a whole: what it says, what it survives, what it leaves behind. One archive for the module."""

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pacs_core.supervisor.flow_api import FlowApi
from pacs_core.supervisor.flow_schedules import by_cron, by_interval
from pacs_core.supervisor.part import PartState, PartStatus
from pacs_core.supervisor.plan import POSTGRES
from pacs_core.supervisor.postgres import EmbeddedPostgres, socket_directory
from pacs_core.supervisor.process import leftovers
from pacs_core.supervisor.runtime import read_runtime
from tests.support.archive import PACS, Archive
from tests.support.dcmtk import echoscu
from tests.support.processes import Daemon
from tests.support.waiting import eventually

# One after another, on one worker: they stop and start the archive that they share.
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("up")]

PARTS = ("postgres", "prefect", "flow-runner", "dask-scheduler", "dask-worker-1", "dask-worker-2", "listener-1", "listener-2", "web")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    archive = Archive(tmp_path_factory.mktemp("up") / "home")
    archive.start()
    yield archive
    archive.stop()


def parts(archive: Archive) -> dict[str, PartStatus]:
    runtime = read_runtime(archive.home)
    return {part.name: part for part in runtime.parts} if runtime else {}


def health(archive: Archive) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{archive.http_port}/health", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, {}


def processes_of(archive: Archive) -> list[int]:
    """Everything that runs for this home, PostgreSQL included."""
    server = EmbeddedPostgres(archive.home / "postgres", socket_directory(archive.home))
    pid = server.running_pid()
    return [*leftovers(archive.home), *([] if pid is None else [pid])]


def all_ready(archive: Archive) -> Callable[[], bool]:
    return lambda: (states := {part.state for part in parts(archive).values()}) == {PartState.READY} and bool(states)


def test_the_ready_line_names_every_address(up: Archive) -> None:
    assert up.ready_line.startswith("pacs ready: ")
    for address in (
        f"PACS@0.0.0.0:{up.dicom_port}",
        f"127.0.0.1:{up.http_port}",
        f"127.0.0.1:{up.prefect_port}",
        f"127.0.0.1:{up.dask_port}",
    ):
        assert address in up.ready_line
    assert up.process.output().splitlines()[-1] == up.ready_line


def test_every_part_says_when_it_is_ready(up: Archive) -> None:
    for part in PARTS:
        assert re.search(rf"^{part}: ready", up.process.output(), re.MULTILINE)


def test_everything_is_healthy_when_it_says_ready(up: Archive) -> None:
    status, report = health(up)
    assert (status, report["status"]) == (200, "ok")
    assert set(report["parts"]) == {"postgres", "storage", "prefect", "dask", "listeners"}


def test_a_second_one_on_the_same_home_is_refused(up: Archive) -> None:
    began = time.monotonic()
    done = up.run_pacs("up")
    assert done.returncode == 1
    assert "already running" in done.stdout
    assert str(up.process.process.pid) in done.stdout
    assert str(up.dicom_port) in done.stdout
    assert time.monotonic() - began < 30
    assert health(up)[0] == 200


def test_a_port_that_is_taken_is_named(up: Archive, tmp_path: Path) -> None:
    other = Archive(tmp_path / "other")
    other.env["PACS_DICOM_PORT"] = str(up.dicom_port)
    done = other.run_pacs("up", timeout=30)
    assert done.returncode == 1
    assert done.stdout.count(f"dicom_port: port {up.dicom_port}") == 1
    assert "Traceback" not in done.stdout


def test_scheduled_runs_appear(up: Archive) -> None:
    """Broken pins of Prefect's dependencies show in nothing else."""
    request = urllib.request.Request(  # our own server
        f"{up.prefect_api_url}/flow_runs/count",
        data=json.dumps({"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}).encode(),
        headers={"Content-Type": "application/json"},
    )

    def scheduled() -> bool:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # our own server
            return int(answer.read()) > 0

    eventually(scheduled, within=90, what="a scheduled run of verify")


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_killed_comes_back(up: Archive, name: str) -> None:
    eventually(all_ready(up), within=90, what="every part")
    before = parts(up)[name]
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)

    def back() -> bool:
        now = parts(up).get(name)
        return now is not None and now.restarts > before.restarts and now.state is PartState.READY

    eventually(back, within=90, what=f"{name} again")
    eventually(lambda: health(up)[0] == 200, within=60, what="health")
    assert f"{name}: was killed by SIGKILL; starting it again" in up.process.output()
    # The status file, which `parts` reads, is written before the line: another process may read it in between.
    eventually(lambda: f"{name}: again ready" in up.process.output(), within=10, what="the line that says so")


def test_it_answers_dicom_after_all_that(up: Archive) -> None:
    eventually(lambda: echoscu(up.scp).returncode == 0, within=30, what="C-ECHO")


def test_sigterm_leaves_no_process_and_a_paused_flow_stays_paused(up: Archive) -> None:
    with FlowApi(up.prefect_api_url) as api:
        assert api.pause("verify").paused
    assert up.stop() == 0
    assert processes_of(up) == []
    assert up.process.output().splitlines()[-1] == "pacs: stopped"
    assert "did not stop" not in up.process.output()
    up.start()
    with FlowApi(up.prefect_api_url) as api:
        assert api.deployment("verify").paused
        assert not api.resume("verify").paused


def test_schedules_are_the_users_after_the_first_start(up: Archive) -> None:
    with FlowApi(up.prefect_api_url) as api:
        first = api.deployment("verify").schedules
        assert first == ("30 2 * * * UTC",)
        api.reschedule("verify", by_interval("6h"))
    up.restart()
    with FlowApi(up.prefect_api_url) as api:
        assert api.deployment("verify").schedules == ("every 21600 s",)
        api.reschedule("verify", None)
    up.restart()
    with FlowApi(up.prefect_api_url) as api:
        assert api.deployment("verify").schedules == ()
        assert api.reschedule("verify", by_cron("30 2 * * *", "UTC")).schedules == first


def test_ctrl_c_leaves_no_process(up: Archive) -> None:
    assert up.stop(signal.SIGINT) == 0
    assert processes_of(up) == []
    assert "did not stop" not in up.process.output()
    up.start()


def test_a_killed_supervisor_leaves_a_home_that_starts_again(up: Archive) -> None:
    up.process.kill()
    up.start()
    eventually(lambda: health(up)[0] == 200, within=30, what="health")
    orphaned = set(processes_of(up)) - descendants(up.process)
    assert orphaned == set()


def test_an_orphaned_postgres_is_stopped_and_not_fought_with(up: Archive) -> None:
    """Its supervisor and everything else dies at once, it alone survives (stopped by nobody, as in a container's exit)."""
    postgres = parts(up)[POSTGRES].pid
    assert postgres is not None
    os.kill(postgres, signal.SIGSTOP)  # so that it does not follow its supervisor
    up.process.kill()
    second = Daemon([PACS, "up"], log=up.log, env=up.env)
    os.kill(postgres, signal.SIGCONT)
    try:
        second.wait_for("pacs ready:", within=90)
    finally:
        assert second.stop(within=60) == 0
    assert processes_of(up) == []


def descendants(daemon: Daemon) -> set[int]:
    """The processes below this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {daemon.process.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found
