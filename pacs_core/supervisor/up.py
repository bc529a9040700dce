"""`pacs up` itself: the checks before anything is started, the lines for the console, the exit status."""

import asyncio
import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pacs_core.errors import ConfigurationError, PacsError
from pacs_core.settings import Settings
from pacs_core.supervisor import plan
from pacs_core.supervisor.part import PartState, PartStatus
from pacs_core.supervisor.postgres import accepts_connections, catalog_url, create_database, prefect_database, prefect_url
from pacs_core.supervisor.process import sweep
from pacs_core.supervisor.runtime import Runtime, prepare_home, read_runtime, single_instance, write_runtime
from pacs_core.supervisor.supervisor import Supervisor, own_environment


def run(settings: Settings) -> int:
    """Run the archive until SIGTERM or SIGINT.

    Returns 0 after a clean stop, 1 if the archive runs already, cannot be started or cannot be kept running; the
    reason is one line on standard error.
    """
    try:
        prepare_home(settings.home)
        with single_instance(settings.home) as ours:
            if not ours:
                raise ConfigurationError(_already_running(settings.home))
            asyncio.run(_up(settings))
    except PacsError as exc:
        sys.stderr.write(f"pacs: {exc}\n")
        return 1
    return 0


def status(settings: Settings) -> list[PartStatus]:
    """Every part of the archive as it is now; all `stopped` where it does not run."""
    runtime = read_runtime(settings.home)
    if runtime is not None:
        return list(runtime.parts)
    return [PartStatus(part.name, PartState.STOPPED, part.address) for part in plan.parts(settings, prefect_url(settings))]


async def _up(settings: Settings) -> None:
    began = time.monotonic()
    say(f"pacs: starting the archive in {settings.home} (pid {os.getpid()})")
    if left := await sweep(settings.home):
        say(f"pacs: stopped {len(left)} processes that an earlier pacs up left behind")
    _check_ports(settings)
    _check_catalog(settings)
    database = await asyncio.to_thread(_prefect_database_url, settings)
    facts = partial(_write_facts, settings)
    supervisor = Supervisor(
        plan.parts(settings, database),
        home=settings.home,
        environment=own_environment(),
        say=say,
        changed=partial(facts, ready=False),
    )

    def announce() -> None:
        supervisor.changed = partial(facts, ready=True)
        supervisor.publish()
        say(f"pacs: everything started in {time.monotonic() - began:.1f} s")
        say(_ready_line(settings))

    await supervisor.run(announce)
    say("pacs: stopped")


def _write_facts(settings: Settings, parts: Sequence[PartStatus], *, ready: bool) -> None:
    write_runtime(settings.home, Runtime(os.getpid(), ready, catalog_url(settings), plan.addresses(settings), tuple(parts)))


def say(line: str) -> None:
    """Print one line at once. A console that went away does not stop the archive."""
    with contextlib.suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _ready_line(settings: Settings) -> str:
    served = plan.addresses(settings)
    return (
        f"pacs ready: DICOM {served['dicom']} · web {served['web']} · Prefect UI {served['prefect']} · Dask {served['dask']}"
        f" · SQL: pacs sql --home {settings.home}"
    )


def _already_running(home: Path) -> str:
    runtime = read_runtime(home)
    if runtime is None:
        return f"an archive is already starting or stopping on {home}"
    served = ", ".join(f"{name} {address}" for name, address in runtime.addresses.items())
    return f"already running on {home} with pid {runtime.pid}: {served}"


def _check_ports(settings: Settings) -> None:
    wanted = {
        "dicom_port": (settings.dicom_host, settings.dicom_port),
        "http_port": (settings.http_host, settings.http_port),
    }
    if not settings.prefect_api_url:
        wanted["prefect_port"] = ("127.0.0.1", settings.prefect_port)
    if not settings.dask_address:
        wanted["dask_port"] = ("127.0.0.1", settings.dask_port)
    seen: dict[int, str] = {}
    problems: list[str] = []
    for name, (host, port) in wanted.items():
        if port in seen:
            problems.append(f"{name}: port {port} is also {seen[port]}; give each its own")
        elif reason := _unavailable(host, port):
            problems.append(
                f"{name}: port {port} on {host} {reason}; free it, or set PACS_{name.upper()} or {name} in pacs.toml to another"
            )
        seen[port] = name
    if problems:
        raise ConfigurationError("\npacs: ".join(problems))


def _unavailable(host: str, port: int) -> str:
    """Why nobody could listen there, or ""."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier run may linger
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError:
            return "needs privileges that this user does not have"
        except OSError as exc:
            return "is taken" if exc.errno == errno.EADDRINUSE else f"cannot be opened ({exc.strerror})"
    return ""


def _check_catalog(settings: Settings) -> None:
    if settings.catalog_url and not accepts_connections(settings.catalog_url, timeout=10):
        raise ConfigurationError("catalog_url: no PostgreSQL answers there; start it, or correct the setting")


def _prefect_database_url(settings: Settings) -> str:
    """Prefect's database beside the catalog; where it may not be made there, a file of its own, which one machine can use."""
    if not settings.catalog_url or settings.prefect_api_url:
        return prefect_url(settings)
    if create_database(settings.catalog_url, prefect_database(settings)):
        return prefect_url(settings)
    file = settings.home / "prefect" / "prefect.db"
    say(f"prefect: the database {prefect_database(settings)} cannot be created beside the catalog; its runs are kept in {file}")
    return f"sqlite+aiosqlite:///{file}"
