"""Which parts an archive with these settings has."""

import http.client
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog

import pacs_core
from pacs_core.settings import Settings
from pacs_core.supervisor.part import Part
from pacs_core.supervisor.postgres import (
    CATALOG_DATABASE,
    PREFECT_DATABASE,
    EmbeddedPostgres,
    socket_directory,
)

log = structlog.get_logger(__name__)

POSTGRES = "postgres"
PREFECT = "prefect"
DASK = "dask-scheduler"
FLOW_RUNNER = "flow-runner"
WORK_POOL = "pacs"  # as in deployments/
LISTENER = "listener"
COMMITTER = "committer"
ORDERS = "orders"
WEB = "web"

_DASK_ENVIRONMENT = {
    "DASK_LOGGING__DISTRIBUTED": "warning",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false",  # would look at every worker's stack 100 times a second
}

_COMMIT_GRACE = 15.0  # seconds
_STOP_GRACE = 5.0

# Beside the package, both in a checkout and where it is installed.
DEPLOYMENTS = Path(pacs_core.__file__).resolve().parent.parent / "deployments"


def parts(settings: Settings, prefect_database_url: str) -> list[Part]:
    """Every part, PostgreSQL first. Pure: nothing is started or asked."""
    prefect = prefect_environment(settings, prefect_database_url)
    return [
        *([] if settings.catalog_url else [_postgres(settings)]),
        *([] if settings.prefect_api_url else [_prefect_server(settings, prefect)]),
        _flow_runner(prefect),
        *([] if settings.dask_address else [_dask_scheduler(settings), *_dask_workers(settings, prefect)]),
        _committer(),
        *_listeners(settings),
        *([_orders(settings)] if settings.hl7_port else []),
        _web(settings),
    ]


def embedded_postgres(settings: Settings) -> EmbeddedPostgres:
    """The embedded server of this archive."""
    return EmbeddedPostgres(settings.home / "postgres", socket_directory(settings.home))


def prefect_environment(settings: Settings, database_url: str) -> dict[str, str]:
    """What Prefect's server, its worker and every flow run are told. Nothing leaves the machine."""
    home = settings.home / "prefect"
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": settings.flow_api_url,
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        # deployments/server.py does it, later: it would delay the start by seconds.
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
        **_DASK_ENVIRONMENT,
    }


def addresses(settings: Settings) -> dict[str, str]:
    """What is served where, for people."""
    return {
        "dicom": f"{settings.ae_title}@{settings.dicom_host}:{settings.dicom_port}",
        "web": _web_address(settings),
        "prefect": settings.flow_api_url.removesuffix("/api"),
        "dask": settings.scheduler_address,
    }


def _postgres(settings: Settings) -> Part:
    server = embedded_postgres(settings)

    def prepare() -> None:
        server.stop()  # one that outlived its supervisor: two servers on one cluster are not possible
        server.initialise()

    return Part(
        name=POSTGRES,
        command=tuple(server.command()),
        address=str(server.socket_dir),
        user=server.user,
        prepare=prepare,
        probe=server.accepting,
        complete=partial(server.create_databases, PREFECT_DATABASE, CATALOG_DATABASE),
        stop_signal=server.stop_signal,
        stop_timeout=30,
    )


def _prefect_server(settings: Settings, environment: dict[str, str]) -> Part:
    return Part(
        name=PREFECT,
        command=(sys.executable, "-P", str(DEPLOYMENTS / "server.py")),
        address=f"http://127.0.0.1:{settings.prefect_port}",
        env=environment,
        needs=(POSTGRES,),
        eager=True,
        probe=partial(answers_http, "127.0.0.1", settings.prefect_port, "/api/health"),
        complete=_once(partial(_abandon_runs, settings.flow_api_url)) if not settings.catalog_url else None,
        start_timeout=120,
    )


def _abandon_runs(api_url: str) -> None:
    from pacs_core.supervisor.flow_api import FlowApi  # here: the HTTP client it needs is slow to import

    with FlowApi(api_url) as api:
        abandoned = api.abandon_unfinished(WORK_POOL, reason="the archive was stopped while this ran")
    if abandoned:
        log.warning("flow_runs_abandoned", count=abandoned)


def _once(call: Callable[[], None]) -> Callable[[], None]:
    """`call`, until it succeeded once. Later starts of the server find runs that are alive."""
    done = threading.Event()

    def first_only() -> None:
        if not done.is_set():
            call()
            done.set()

    return first_only


def _flow_runner(environment: dict[str, str]) -> Part:
    return Part(
        name=FLOW_RUNNER,
        command=(sys.executable, "-P", str(DEPLOYMENTS / "runner.py")),
        env=environment,
        needs=(PREFECT, DASK, POSTGRES),
        eager=True,
        start_timeout=150,
        stop_timeout=15,
    )


def _dask_scheduler(settings: Settings) -> Part:
    command = (sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(settings.dask_port))
    return Part(
        name=DASK,
        command=(*command, "--dashboard-address", "127.0.0.1:0"),
        address=settings.scheduler_address,
        env=_DASK_ENVIRONMENT,
        probe=partial(answers_tcp, "127.0.0.1", settings.dask_port),
    )


def _dask_workers(settings: Settings, environment: dict[str, str]) -> list[Part]:
    return [
        Part(
            name=f"dask-worker-{number}",
            command=(
                *(sys.executable, "-m", "distributed.cli.dask_worker", settings.scheduler_address, "--no-nanny", "--no-dashboard"),
                *("--nthreads", "1", "--host", "127.0.0.1", "--name", f"worker-{number}"),
                *("--local-directory", str(settings.home / "run" / "dask"), "--preload", str(DEPLOYMENTS / "worker_ready.py")),
            ),
            env=environment,
            needs=(DASK, POSTGRES),
        )
        for number in range(1, settings.dask_workers + 1)
    ]


def _committer() -> Part:
    return Part(
        name=COMMITTER,
        command=(sys.executable, "-m", "pacs_core.cli.main", "commit"),
        needs=(POSTGRES,),
        stop_timeout=_COMMIT_GRACE,
    )


def _listeners(settings: Settings) -> list[Part]:
    return [
        Part(
            name=f"{LISTENER}-{number}",
            command=(sys.executable, "-m", "pacs_core.cli.main", "listen", "--no-committer"),
            address=addresses(settings)["dicom"],
            needs=(POSTGRES, COMMITTER),
            # An association may finish the message it is in.
            stop_timeout=settings.association_timeout + _STOP_GRACE,
        )
        for number in range(1, settings.listeners + 1)
    ]


def _orders(settings: Settings) -> Part:
    return Part(
        name=ORDERS,
        command=(sys.executable, "-m", "pacs_core.cli.main", "hl7"),
        address=f"mllp://{settings.hl7_host}:{settings.hl7_port}",
        needs=(POSTGRES,),
    )


def _web(settings: Settings) -> Part:
    return Part(
        name=WEB,
        command=(sys.executable, "-m", "pacs_core.web"),
        address=_web_address(settings),
        needs=(POSTGRES,),
        probe=partial(answers_http, reachable(settings.http_host), settings.http_port, "/live"),
    )


def _web_address(settings: Settings) -> str:
    return f"http://{reachable(settings.http_host)}:{settings.http_port}"


def reachable(host: str) -> str:
    """An address to reach a server on this machine by that binds to `host`."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host


def flow_api_answers(settings: Settings) -> bool:
    """Whether the Prefect server, ours or another's, is well."""
    url = urlsplit(settings.flow_api_url)
    tls = url.scheme == "https"
    return answers_http(url.hostname or "127.0.0.1", url.port or (443 if tls else 80), f"{url.path}/health", tls=tls)


def answers_tcp(host: str, port: int, *, timeout: float = 2.0) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError:
        return False
    return True


def answers_http(host: str, port: int, path: str, *, tls: bool = False, timeout: float = 2.0) -> bool:
    """Whether GET is answered with 200 there."""
    kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
