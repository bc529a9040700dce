"""The flow runner as `pacs up` runs it: deploys prefect.yaml and what users have in `<home>/flows`, then works on the pool.

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
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml  # type: ignore[import-untyped]  # the stubs are not among our tools
from prefect.cli import app as prefect_cli
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessWorker

from pacs_core.settings import load_settings

POOL = "pacs"
PROJECT = Path(__file__).resolve().with_name("prefect.yaml")
_MANY = 200  # deployments; the most that Prefect's API answers at once
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


def _known() -> set[str]:
    """The names of what is deployed already."""
    with get_client(sync_client=True) as client:
        return {each.name for each in client.read_deployments(limit=_MANY)}


def _deployable(project: Path, known: set[str], directory: Path) -> Path:
    """A copy of a prefect.yaml without the schedules of what is deployed already.

    They are what a flow begins with. Deployed again, Prefect would reset a schedule that a user changed, bring back one that was
    removed, and drop those that were added beside it.
    """
    content = yaml.safe_load(project.read_text())
    for deployment in content["deployments"]:
        if deployment["name"] in known:
            deployment.pop("schedules", None)
            deployment.pop("schedule", None)
    copy = directory / f"{project.parent.name}.yaml"
    copy.write_text(yaml.safe_dump(content, sort_keys=False))
    return copy


def _deploy_users_flows(folder: Path, known: set[str]) -> None:
    """Deploy every `<home>/flows/*/prefect.yaml`, each in a process of its own: whatever is wrong there stops nothing of ours."""
    for project in sorted(folder.glob("*/prefect.yaml")):
        try:
            with TemporaryDirectory() as scratch:
                arguments = ("--no-prompt", "deploy", "--all", "--prefect-file", str(_deployable(project, known, Path(scratch))))
                command = [sys.executable, "-m", "prefect", *arguments]
                done = subprocess.run(
                    command, cwd=project.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_PATIENCE, check=False
                )
            outcome = "deployed" if done.returncode == 0 else f"not deployed:\n{done.stdout}"
        except Exception as exc:  # noqa: BLE001 - a boundary: somebody else's file
            outcome = f"not deployed: {exc!r}"
        sys.stderr.write(f"{project}: {outcome}\n")


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
    known = _known()
    with TemporaryDirectory() as scratch:
        _prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(_deployable(PROJECT, known, Path(scratch))))
    _tell_ready()
    threading.Thread(target=_deploy_users_flows, args=(load_settings().home / "flows", known), daemon=True).start()
    _prefect("worker", "start", "--pool", POOL, "--type", "process", "--name", f"pacs@{platform.node()}")


if __name__ == "__main__":
    main()
