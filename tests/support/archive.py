"""An archive in its own home: `pacs up` whole, or one `pacs listen` beside a PostgreSQL that is there already."""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from typer.testing import CliRunner, Result

from pacs_core.cli.main import app
from tests.support.dcmtk import Scp
from tests.support.processes import SCRIPTS, Daemon, clean_environment, free_ports, run
from tests.support.waiting import eventually

PACS = SCRIPTS / "pacs"

_ONE_AT_A_TIME = threading.Lock()  # the standard output and the environment are the process's
_READY_WITHIN = 90.0  # seconds; the product promises 15 on a machine of its own, tests share theirs
_STOPPED_WITHIN = 60.0


class Archive:
    """`pacs up` with free ports.

    Attributes:
        home: its directory.
        env: the environment that `pacs` commands need to mean this archive.
        scp: how DICOM clients reach it.
    """

    def __init__(self, home: Path, *, ae_title: str = "PACS", settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.ae_title = ae_title
        self.dicom_port, self.http_port, self.prefect_port, self.dask_port = free_ports(4)
        self.env = clean_environment(
            PACS_HOME=str(home),
            PACS_AE_TITLE=ae_title,
            PACS_DICOM_PORT=str(self.dicom_port),
            PACS_HTTP_PORT=str(self.http_port),
            PACS_PREFECT_PORT=str(self.prefect_port),
            PACS_DASK_PORT=str(self.dask_port),
            **(settings or {}),
        )
        self.scp = Scp(self.dicom_port, ae_title)
        self.log = home.with_suffix(".log")
        self.ready_line = ""
        self._daemon: Daemon | None = None

    @property
    def prefect_api_url(self) -> str:
        """Where its Prefect server answers."""
        return f"http://127.0.0.1:{self.prefect_port}/api"

    @property
    def process(self) -> Daemon:
        """The running `pacs up`."""
        assert self._daemon is not None, "not started"
        return self._daemon

    def start(self) -> None:
        """Return when it says that it is ready."""
        self._daemon = Daemon([PACS, "up"], log=self.log, env=self.env)
        try:
            self.ready_line = self._daemon.wait_for("pacs ready:", within=_READY_WITHIN)
        except AssertionError:
            self.stop()
            raise

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status; harmless when it is not running."""
        return self._daemon.stop(within=_STOPPED_WITHIN, sig=sig) if self._daemon else 0

    def restart(self) -> None:
        """Stop, then start with the same home and ports."""
        self.stop()
        self.start()

    def run_pacs(self, *args: str | Path, timeout: float = 120) -> "CompletedProcess[str]":
        """A `pacs` command against this archive."""
        return run([PACS, *args], env=self.env, timeout=timeout)

    def sql(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query."""
        return query_rows(self.env, query)

    def prefect(self, path: str, body: Mapping[str, Any]) -> Any:
        """What its Prefect server answers."""
        request = urllib.request.Request(  # noqa: S310  # our own server
            f"{self.prefect_api_url}/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # our own server
            return json.load(answer)

    def pause_schedules(self) -> None:
        """From now on no flow runs but those that are asked for."""
        for deployment in self.prefect("deployments/filter", {}):
            self.prefect(f"deployments/{deployment['id']}/pause_deployment", {})

    def artifact(self, key: str) -> dict[str, Any]:
        """The newest artifact of that key."""
        (latest,) = self.prefect("artifacts/latest/filter", {"artifacts": {"key": {"any_": [key]}}})
        assert isinstance(latest, dict)
        return latest


@contextmanager
def running_archive(home: Path, *, settings: Mapping[str, str] | None = None) -> Iterator[Archive]:
    """An archive for the length of a `with` block."""
    archive = Archive(home, settings=settings)
    archive.start()
    try:
        yield archive
    finally:
        archive.stop()


class Listener:
    """`pacs listen` alone: what ingest, query and retrieve need, ready in a second or two."""

    def __init__(self, home: Path, *, catalog_url: str, ae_title: str = "PACS", settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        (self.dicom_port,) = free_ports(1)
        self.env = clean_environment(
            PACS_HOME=str(home),
            PACS_AE_TITLE=ae_title,
            PACS_DICOM_PORT=str(self.dicom_port),
            PACS_CATALOG_URL=catalog_url,
            **(settings or {}),
        )
        self.scp = Scp(self.dicom_port, ae_title)
        self.log = home.with_suffix(".log")
        self._daemon: Daemon | None = None

    @property
    def process(self) -> Daemon:
        """The running `pacs listen`."""
        assert self._daemon is not None, "not started"
        return self._daemon

    def start(self) -> None:
        """Return when it accepts connections."""
        self._daemon = Daemon([PACS, "listen"], log=self.log, env=self.env)
        self._daemon.wait_for_port(self.dicom_port, within=30)

    def stop(self) -> int:
        """Its exit status; harmless when it is not running."""
        return self._daemon.stop(within=30) if self._daemon else 0

    def run_pacs(self, *args: str | Path, timeout: float = 120) -> "CompletedProcess[str]":
        """A `pacs` command against this archive."""
        return run([PACS, *args], env=self.env, timeout=timeout)

    def sql(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query."""
        return query_rows(self.env, query)


def query_rows(env: Mapping[str, str], query: str) -> list[dict[str, Any]]:
    """The rows that `pacs sql` answers, asked again where it says that it could not wait for all that was acknowledged.

    The command runs in this process: what it imports costs four times as much CPU as its query, and tests ask again and again.
    """

    def asked() -> "Result | None":
        with _ONE_AT_A_TIME:
            done = CliRunner().invoke(app, ["sql", "-c", query, "--format", "json"], env={**dict.fromkeys(os.environ), **env})
        assert done.exit_code == 0, done.output
        return None if "not in the index yet" in done.stderr else done

    done = eventually(asked, within=60, what="an answer of pacs sql with all that was acknowledged")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows
