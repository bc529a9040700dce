"""The flow runner as `pacs up` runs it: deploys prefect.yaml, then works on the pool.

One process instead of three commands of the Prefect CLI, because each of them imports Prefect for seconds, and
because the imports here are done while the server still starts.
"""

import asyncio
import contextlib
import os
import platform
import sys
import time
from pathlib import Path

from prefect.cli import app as prefect_cli
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

POOL = "pacs"
PROJECT = Path(__file__).resolve().with_name("prefect.yaml")
_PATIENCE = 140.0  # seconds for the server, which may have migrations to run


async def _make_pool() -> None:
    """Wait for the API and make the work pool unless it is there; what an administrator changed in it stays."""
    deadline = time.monotonic() + _PATIENCE
    async with get_client() as client:
        while (trouble := await client.api_healthcheck()) is not None:
            if time.monotonic() > deadline:
                raise trouble
            await asyncio.sleep(0.05)
        template = ProcessWorker.get_default_base_job_template()
        with contextlib.suppress(ObjectAlreadyExists):
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


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


def main() -> None:
    """Deploy, then work until SIGTERM."""
    asyncio.run(_make_pool())
    _prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(PROJECT))
    _tell_ready()
    _prefect("worker", "start", "--pool", POOL, "--type", "process", "--name", f"pacs@{platform.node()}")


if __name__ == "__main__":
    main()
