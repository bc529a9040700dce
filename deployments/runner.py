"""The flow runner as `pacs up` runs it: deploys prefect.yaml and what users have in `<home>/flows`, then works on the pool.

One process instead of commands of the Prefect CLI, because each of them imports Prefect for seconds, and because the
imports here are done while the server still starts.
"""

# ruff: noqa: E402 - the collector is off before the imports

import gc

gc.disable()  # importing Prefect makes objects by the hundred thousand and no garbage: looking for some took a sixth of the start

import asyncio
import os
import platform
import sys
import threading
import time
from collections.abc import Collection
from typing import Any

from prefect.cli import app as prefect_cli
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessWorker

from deployments.deploying import OurDeployment, deploy, deploy_users_flows, our_deployments
from pacs_core.settings import load_settings

POOL = "pacs"
_PATIENCE = 140.0  # seconds for the server, which may have migrations to run


async def _make_pool(client: PrefectClient) -> None:
    """Wait for the API and make the work pool; of one that is there, only the command is set."""
    deadline = time.monotonic() + _PATIENCE
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


def _tell_ready() -> None:
    if descriptor := os.environ.pop("PACS_READY_FD", ""):
        os.write(int(descriptor), b"ready\n")
        os.close(int(descriptor))


async def _make_pool_and_deploy(deployments: list[OurDeployment]) -> Collection[str]:
    """The names of what was deployed before."""
    async with get_client() as client:
        await _make_pool(client)
        return await deploy(client, deployments)


def main() -> None:
    """Deploy, then work until SIGTERM."""
    deployments = our_deployments()  # imports every flow, while the server still starts
    gc.freeze()  # what was imported stays
    gc.enable()
    known = asyncio.run(_make_pool_and_deploy(deployments))
    _tell_ready()
    threading.Thread(target=deploy_users_flows, args=(load_settings().home / "flows", known), daemon=True).start()
    sys.argv = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", f"pacs@{platform.node()}"]
    prefect_cli()


if __name__ == "__main__":
    main()
