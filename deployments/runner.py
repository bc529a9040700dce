"""The flow runner as `pacs up` runs it: deploys prefect.yaml, then works on the pool.

One process instead of three commands of the Prefect CLI, because each of them imports Prefect for seconds, and
because the imports here are done while the server still starts.
"""

# ruff: noqa: E402 - the collector is off before the imports

import gc

gc.disable()  # importing Prefect makes objects by the hundred thousand and no garbage: looking for some took a sixth of the start

import asyncio
import importlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # the stubs are not among our tools
from prefect.cli import app as prefect_cli
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessWorker

POOL = "pacs"
PROJECT = Path(__file__).resolve().with_name("prefect.yaml")
_PATIENCE = 140.0  # seconds for the server, which may have migrations to run


async def _make_pool() -> None:
    """Wait for the API and make the work pool; of one that is there, only the command is set."""
    deadline = time.monotonic() + _PATIENCE
    async with get_client() as client:
        while (trouble := await client.api_healthcheck()) is not None:
            if time.monotonic() > deadline:
                raise trouble
            await asyncio.sleep(0.05)
        try:
            template = _with_command(ProcessWorker.get_default_base_job_template())
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        except ObjectAlreadyExists:
            template = (await client.read_work_pool(POOL)).base_job_template
            await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=_with_command(template)))


def _with_command(template: dict[str, Any]) -> dict[str, Any]:
    """With a command of its own, a run skips the process in which Prefect would fetch the flow's code: it is installed."""
    template["variables"]["properties"]["command"]["default"] = command_to_string([sys.executable, "-m", "prefect.engine"])
    return template


def _prefect(*arguments: str) -> None:
    """A command of the Prefect CLI in this process. SystemExit if it fails."""
    sys.argv = ["prefect", *arguments]
    try:
        prefect_cli()
    except SystemExit as exc:
        if exc.code:
            raise


def _tell_ready() -> None:
    if descriptor := os.environ.pop("PACS_READY_FD", ""):
        os.write(int(descriptor), b"ready\n")
        os.close(int(descriptor))


def _import_flows() -> None:
    """Import what deploying will need, while the server still starts."""
    importlib.import_module("prefect.cli.deploy")
    importlib.import_module("prefect.cli.worker")
    for deployment in yaml.safe_load(PROJECT.read_text())["deployments"]:
        importlib.import_module(deployment["entrypoint"].rpartition(".")[0])


def main() -> None:
    """Deploy, then work until SIGTERM."""
    _import_flows()
    gc.freeze()  # what was imported stays
    gc.enable()
    asyncio.run(_make_pool())
    _prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(PROJECT))
    _tell_ready()
    _prefect("worker", "start", "--pool", POOL, "--type", "process", "--name", f"pacs@{platform.node()}")


if __name__ == "__main__":
    main()
