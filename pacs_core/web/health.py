"""What the health endpoints answer with: each part asked, all at once, within bounds."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pacs_core.settings import Settings
from pacs_core.supervisor import plan
from pacs_core.supervisor.part import PartState
from pacs_core.supervisor.postgres import accepts_connections, catalog_url, socket_directory
from pacs_core.supervisor.runtime import Runtime, read_runtime

Probe = Callable[[], bool]

_PATIENCE = 3.0  # seconds for one probe; each has a shorter timeout of its own


@dataclass(frozen=True, slots=True)
class PartHealth:
    """One part as it was found."""

    ok: bool
    address: str = ""

    def as_json(self) -> dict[str, str]:
        """As /health shows it."""
        return {"state": "ok" if self.ok else "down", "address": self.address}


@dataclass(frozen=True, slots=True)
class Health:
    """Asks the parts of one archive.

    Attributes:
        essential: what ingest and query cannot do without, by name.
        others: the rest.
        addresses: where each part is, for people; no credentials.
    """

    essential: Mapping[str, Probe]
    others: Mapping[str, Probe] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)

    async def ready(self) -> dict[str, PartHealth]:
        """The essential parts."""
        return await self._ask(self.essential)

    async def all(self) -> dict[str, PartHealth]:
        """Every part."""
        return await self._ask({**self.essential, **self.others})

    async def _ask(self, probes: Mapping[str, Probe]) -> dict[str, PartHealth]:
        answers = await asyncio.gather(*(_within_bounds(probe) for probe in probes.values()))
        return {name: PartHealth(ok, self.addresses.get(name, "")) for name, ok in zip(probes, answers, strict=True)}


async def _within_bounds(probe: Probe) -> bool:
    try:
        return await asyncio.wait_for(asyncio.to_thread(probe), _PATIENCE)
    except TimeoutError:
        return False


def of_archive(settings: Settings) -> Health:
    """The health of the archive with these settings."""
    catalog = catalog_url(settings)
    scheduler = urlsplit(settings.scheduler_address)
    served = plan.addresses(settings)
    return Health(
        essential={"postgres": lambda: accepts_connections(catalog), "storage": lambda: writable(settings.landing_root)},
        others={
            "prefect": lambda: plan.flow_api_answers(settings),
            "dask": lambda: plan.answers_tcp(scheduler.hostname or "127.0.0.1", scheduler.port or settings.dask_port),
            "listeners": lambda: listening(read_runtime(settings.home), settings),
        },
        addresses={
            "postgres": urlsplit(catalog).hostname or str(socket_directory(settings.home)),
            "storage": str(settings.landing_root),
            "prefect": served["prefect"],
            "dask": served["dask"],
            "listeners": served["dicom"],
        },
    )


def listening(runtime: Runtime | None, settings: Settings) -> bool:
    """Whether a listener takes associations.

    The supervisor knows; a connection of ours would be one more association for a listener to turn away. Without a
    supervisor the port is tried.
    """
    states = [part.state for part in runtime.parts if part.name.startswith(plan.LISTENER)] if runtime else []
    if states:
        return PartState.READY in states
    return plan.answers_tcp(plan.reachable(settings.dicom_host), settings.dicom_port)


def writable(directory: Path) -> bool:
    """Whether instances can be placed there: the directory exists, or can be made, and takes new files."""
    existing = next(each for each in (directory, *directory.parents) if each.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) and not os.statvfs(existing).f_flag & os.ST_RDONLY
