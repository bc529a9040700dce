"""`pacs up` as a whole: what it says, what it survives, what it leaves behind. One archive for the module."""

import json
import os
import re
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pacs_core.supervisor.flow_api import FlowApi
from pacs_core.supervisor.flow_schedules import by_interval
from pacs_core.supervisor.part import PartState, PartStatus
from pacs_core.supervisor.plan import POSTGRES
from pacs_core.supervisor.postgres import EmbeddedPostgres, socket_directory
from pacs_core.supervisor.process import leftovers
from pacs_core.supervisor.runtime import read_runtime
from tests.support.archive import Archive, running_archive
from tests.support.dcmtk import getscu, storescu
from tests.support.part10 import assert_identical
from tests.support.processes import Daemon, assert_succeeded
from tests.support.synthetic import Study
from tests.support.waiting import eventually

# One after another, on one worker: they stop and start the archive that they share.
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("up")]

TEMPLATE = Path(__file__).resolve().parents[3] / "deployments" / "custom"
PARTS = ("postgres", "prefect", "flow-runner", "dask-scheduler", "dask-worker-1", "dask-worker-2", "listener-1", "listener-2", "web")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with running_archive(tmp_path_factory.mktemp("up") / "home") as archive:
        yield archive


@dataclass(frozen=True)
class Sent:
    study: Study
    files: list[Path]


@pytest.fixture(scope="module")
def sent(up: Archive, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """A study of which one half has been stored."""
    study = Study("MR", instances=20)
    files = study.write(tmp_path_factory.mktemp("sent"))
    assert_succeeded(storescu(up.scp, files[:10]))
    return Sent(study, files)


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

    def scheduled() -> bool:
        return int(up.prefect("flow_runs/count", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})) > 0

    eventually(scheduled, within=90, what="a scheduled run of verify")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.usefixtures("sent")
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


def test_it_holds_what_was_stored_before_and_after_all_that(up: Archive, sent: Sent) -> None:
    eventually(lambda: storescu(up.scp, sent.files).returncode == 0, within=60, what="storing again")
    eventually(lambda: up.run_pacs("sql", "-c", "SELECT 1").returncode == 0, within=60, what="SQL again")
    rows = up.sql(f"SELECT path FROM instance WHERE StudyInstanceUID = '{sent.study.uid}'")
    assert_identical(sent.files, [up.home / "hot" / row["path"] for row in rows])


@pytest.fixture(scope="module")
def restarted(up: Archive) -> Archive:
    """Ended by SIGTERM and started again, after its user had paused a flow, changed schedules and put flows into the home.

    One start for all the tests that need one: it is the dearest thing they do.
    """
    with FlowApi(up.prefect_api_url) as api:
        assert api.pause("verify").paused
        assert api.deployment("verify").schedules == ("30 2 * * * UTC",)
        api.reschedule("verify", by_interval("6h"))
        api.reschedule("cleanup", None)
    shutil.copytree(TEMPLATE, up.home / "flows" / "report")
    for name, content in (("broken", "deployments: [{name: broken, entrypoint: 'flow.py:nothing', work_pool: {name: pacs}}]"), ("no", "{")):
        folder = up.home / "flows" / name
        folder.mkdir()
        (folder / "prefect.yaml").write_text(content)
    assert up.stop() == 0
    assert processes_of(up) == []
    assert up.process.output().splitlines()[-1] == "pacs: stopped"
    assert "did not stop" not in up.process.output()
    up.start()
    return up


def test_a_paused_flow_stays_paused_over_a_restart(restarted: Archive) -> None:
    with FlowApi(restarted.prefect_api_url) as api:
        assert api.deployment("verify").paused
        assert not api.resume("verify").paused


def test_schedules_are_the_users_after_the_first_start(restarted: Archive) -> None:
    with FlowApi(restarted.prefect_api_url) as api:
        assert api.deployment("verify").schedules == ("every 21600 s",)
        assert api.deployment("cleanup").schedules == ()
        assert api.deployment("migrate").schedules == ("15 * * * * UTC",)


def test_a_restart_finds_everything_that_was_acknowledged(restarted: Archive, sent: Sent, tmp_path: Path) -> None:
    got = getscu(restarted.scp, tmp_path / "got", "study", "STUDY", {"StudyInstanceUID": sent.study.uid})
    assert got.status == 0x0000, got.output
    assert_identical(sent.files, (tmp_path / "got").iterdir())


def test_flows_in_the_home_are_deployed_and_a_broken_one_stops_no_other(restarted: Archive) -> None:
    with FlowApi(restarted.prefect_api_url) as api:
        eventually(lambda: {each.flow for each in api.deployments()} > {"study_report", "verify"}, within=60, what="both flows")
    log = restarted.home / "logs" / "flow-runner.log"
    eventually(lambda: log.read_text().count("not deployed") == 2, within=60, what="a line for each that is broken")
    shutil.rmtree(restarted.home / "flows")  # the starts that follow need not deploy them


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
    threading.Timer(1, os.kill, (postgres, signal.SIGCONT)).start()
    up.start()
    eventually(lambda: health(up)[0] == 200, within=30, what="health")


def test_ctrl_c_leaves_no_process(up: Archive) -> None:
    assert up.stop(signal.SIGINT) == 0
    assert processes_of(up) == []
    assert "did not stop" not in up.process.output()


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
