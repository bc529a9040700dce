"""The parts of deployments/compose.yaml as processes of this machine, without `pacs up`: two listeners on one home, a committer, and
PostgreSQL, an S3 store, Prefect and Dask that are elsewhere as far as the archive can tell."""

import json
import re
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # the stubs are not among our tools
from moto.server import ThreadedMotoServer

from tests.support.archive import PACS, query_rows
from tests.support.catalog import Catalogs
from tests.support.dcmtk import Scp, echoscu, findscu, storescu
from tests.support.processes import Daemon, assert_succeeded, clean_environment, free_ports, run
from tests.support.synthetic import Study
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(500)

COMPOSE = Path(__file__).resolve().parents[3] / "deployments" / "compose.yaml"


class Parts:
    """Starts services of the compose file, with its addresses replaced by those of this machine."""

    def __init__(self, directory: Path, catalogs: Catalogs, store: str) -> None:
        self.home = directory / "home"
        self.dicom_port, self.http_port, prefect, dask = free_ports(4)
        self.services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
        self.daemons: dict[str, Daemon] = {}
        self._directory = directory
        catalog, flows = catalogs.new(), catalogs.new().replace("postgresql://postgres@/", "postgresql+asyncpg://postgres:@/")
        self._replaced = {
            r"^/tmp/": f"{directory}/",
            r"postgresql://.*": catalog,
            r"postgresql\+asyncpg://.*": flows,
            r"http://s3:8333": store,
            r"\bprefect:4200": f"127.0.0.1:{prefect}",
            r"127\.0\.0\.1:4200": f"127.0.0.1:{prefect}",
            r"^4200$": str(prefect),
            r"dask-scheduler:8786": f"127.0.0.1:{dask}",
            r"^8786$": str(dask),
            r"^0\.0\.0\.0$": "127.0.0.1",
            r"^dicom$": "127.0.0.1",
            r"\$\{.*\}": "testing",
        }
        self.own = {"PACS_HOME": str(self.home), "PACS_DICOM_PORT": str(self.dicom_port), "PACS_HTTP_PORT": str(self.http_port)}

    def environment(self, service: str) -> dict[str, str]:
        """What the file gives a service, and the ports of this test."""
        given = {name: self._here(value) for name, value in self.services[service]["environment"].items()}
        return clean_environment(**(given | self.own))

    def start(self, service: str, number: int = 1) -> Daemon:
        """One container of a service, as a process."""
        described = self.services[service]
        argv: list[str] = [*described.get("entrypoint", ["pacs"]), *described.get("command", [])]
        executable = {"pacs": str(PACS), "python": sys.executable}[argv[0]]
        command = [executable, *(self._here(argument) for argument in argv[1:])]
        name = f"{service}-{number}"
        daemon = Daemon(command, log=self._directory / f"{name}.log", env=self.environment(service), cwd=self._directory)
        self.daemons[name] = daemon
        return daemon

    def _here(self, text: str) -> str:
        for pattern, value in self._replaced.items():
            text = re.sub(pattern, value.replace("\\", r"\\"), text)
        return text


@pytest.fixture
def store() -> Iterator[str]:
    """An S3 store with the bucket that the file's service `bucket` makes."""
    (port,) = free_ports(1)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    server.start()
    url = f"http://127.0.0.1:{port}"
    bucket = urllib.request.Request(f"{url}/pacs", method="PUT")  # noqa: S310  # our own server
    urllib.request.urlopen(bucket, timeout=30).close()  # noqa: S310  # our own server
    yield url
    server.stop()


def test_the_parts_run_without_pacs_up(tmp_path: Path, catalogs: Catalogs, store: str) -> None:
    parts = Parts(tmp_path, catalogs, store)
    with ExitStack() as stack:

        def start(service: str, number: int = 1) -> None:
            part = parts.start(service, number)
            # Told to end right after a run, Prefect's worker may wait for ever; it has nothing to lose.
            stack.callback(part.kill) if service == "flow-runner" else stack.callback(part.stop, within=60)

        for service in ("prefect", "dask-scheduler", "committer", "web", "dask-worker", "flow-runner"):
            start(service)
        for number in (1, 2):
            start("listener", number)
        env = parts.environment("listener")
        scp = Scp(parts.dicom_port, "PACS")
        eventually(lambda: echoscu(scp).returncode == 0, within=60, what="C-ECHO")

        studies = [Study("MR", series=1, instances=2) for _ in range(4)]
        for number, study in enumerate(studies):
            assert_succeeded(storescu(scp, study.write(tmp_path / f"study{number}")))
        (found,) = findscu(scp, tmp_path / "found", "study", "STUDY", {"StudyInstanceUID": studies[0].uid})
        assert found.StudyInstanceUID == studies[0].uid
        assert query_rows(env, "SELECT count(*) AS held FROM instance") == [{"held": 8}]
        received = [daemon.output().count("c_store_0000") for name, daemon in parts.daemons.items() if name.startswith("listener")]
        assert sum(received) == 4  # by whom is the kernel's choice

        def deployed() -> bool:
            listed = run([PACS, "flow", "list"], env=env)
            return listed.returncode == 0 and "verify" in listed.stdout

        eventually(deployed, within=240, what="the flow runner")
        verified = assert_succeeded(run([PACS, "flow", "run", "verify"], env=env, timeout=200))
        assert "8 objects are intact" in verified.stdout
        (row,) = query_rows(env, "SELECT flow, state FROM flow_run WHERE flow = 'verify'")
        assert row == {"flow": "verify", "state": "completed"}
        with urllib.request.urlopen(f"http://127.0.0.1:{parts.http_port}/health", timeout=10) as answer:  # our own server
            assert json.load(answer)["status"] == "ok"
    ended = {name: daemon.process.returncode for name, daemon in parts.daemons.items()}
    assert {ended.pop(name) for name in ("listener-1", "listener-2", "committer-1")} == {0}
    assert ended.pop("flow-runner-1") == -signal.SIGKILL
    assert set(ended.values()) <= {0, -signal.SIGTERM}  # uvicorn stops in order, then ends by the signal that it was sent
