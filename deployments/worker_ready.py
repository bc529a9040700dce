"""Preloaded into every Dask worker: tells `pacs up` once the worker is there."""

import asyncio
import os
from typing import Any


async def _tell_when_running(worker: Any) -> None:
    # Preloads run before the worker registers with the scheduler, so its status is watched.
    while worker.status.name != "running":  # noqa: ASYNC110 - Dask has no event for it
        await asyncio.sleep(0.02)
    notify()


def notify() -> None:
    """Write the line that PACS_READY_FD asks for, once."""
    if descriptor := os.environ.pop("PACS_READY_FD", ""):
        os.write(int(descriptor), b"ready\n")
        os.close(int(descriptor))


def dask_setup(worker: Any) -> None:
    """Called by Dask while the worker starts."""
    worker.loop.add_callback(_tell_when_running, worker)
