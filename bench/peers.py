"""The archives that are compared, each started empty in a folder of its own, and ready when its `with` block begins."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path

import psutil
from pydicom import Dataset

from bench.wire import STUDY_ROOT_FIND, connected, find_request
from tests.support.archive import Listener
from tests.support.catalog import Catalogs
from tests.support.dcmtk import Scp
from tests.support.processes import Daemon, clean_environment, daemon, free_ports
from tests.support.waiting import eventually

NODELAY = {"TCP_NODELAY": "1"}


@contextmanager
def ours(folder: Path, *, listeners: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[Listener]:
    """Our listener processes on one port, with an embedded PostgreSQL behind them; the first of them."""
    folder.mkdir(parents=True)
    catalogs = Catalogs(folder / "postgres")
    catalogs.start()
    with ExitStack() as stack:
        stack.callback(catalogs.stop)
        first = Listener(folder / "home", catalog_url=catalogs.new(), settings={"PACS_LOG_LEVEL": "warning", **(settings or {})})
        stack.callback(_await_committer, first.home)
        for listener in (first, *(copy(first) for _ in range(listeners - 1))):
            stack.callback(listener.stop)
            start(listener)
        yield first


def start(listener: Listener) -> None:
    """Start it, or start it again; return when this very process listens and answers from the index."""
    listener.start()
    process = psutil.Process(listener.process.process.pid)
    eventually(lambda: any(each.status == psutil.CONN_LISTEN for each in process.net_connections("tcp")), what="a listening socket")
    settle(listener)


def settle(listener: Listener) -> None:
    """Wait until everything that was acknowledged is indexed: a C-FIND does, and this one finds nothing."""
    nobody = Dataset()
    nobody.QueryRetrieveLevel, nobody.StudyInstanceUID = "STUDY", "2.25.1"
    request = find_request(nobody)

    def answered() -> bool:
        with connected(listener.scp, STUDY_ROOT_FIND) as client:
            client.send(request)
            return client.receive().status == 0

    eventually(answered, within=120, what="an answer from the index")


def _await_committer(home: Path) -> None:
    """Wait until the committer, which outlives the listener that started it, has done its work and ended."""

    def is_gone() -> bool:
        return not any(str(home) in process.info["cmdline"] for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"])

    eventually(is_gone, what=f"the end of the committer of {home}")


@contextmanager
def storescp(folder: Path, *, port: int | None = None, ae_title: str = "STORESCP") -> Iterator[Scp]:
    """DCMTK's storescp, bit-preserving, one process for each association."""
    with storescp_process(folder, port=port, ae_title=ae_title) as (scp, _):
        yield scp


@contextmanager
def storescp_process(folder: Path, *, port: int | None = None, ae_title: str = "STORESCP") -> Iterator[tuple[Scp, Daemon]]:
    """The same, and its process."""
    folder.mkdir(parents=True)
    port = port or free_ports(1)[0]
    command: list[str | Path] = ["storescp", "--fork", "+B", "-od", folder, "-aet", ae_title, "--max-pdu", "131072", str(port)]
    with daemon(command, log=folder.with_suffix(".log"), env=clean_environment(**NODELAY)) as process:
        process.wait_for_port(port, within=10)
        yield Scp(port, ae_title), process


@contextmanager
def pynetdicom(folder: Path) -> Iterator[tuple[Scp, Daemon]]:
    """pynetdicom's own SCP, which answers C-ECHO, and its process."""
    folder.mkdir(parents=True)
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "bench.pynetdicom_scp", str(port)]
    with daemon(command, log=folder / "pynetdicom.log", env=clean_environment()) as process:
        process.wait_for_port(port, within=10)
        yield Scp(port, "PYNETDICOM"), process


@contextmanager
def orthanc(folder: Path, *, destinations: Mapping[str, int] | None = None) -> Iterator[Scp]:
    """Debian's Orthanc with its defaults (SQLite index, synced files); C-GET and C-MOVE allowed to anybody."""
    folder.mkdir(parents=True)
    dicom, http = free_ports(2)
    configuration = {
        "Name": "bench",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "Plugins": [],
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomAlwaysAllowFind": True,
        "DicomModalities": {name: [name, "127.0.0.1", port] for name, port in (destinations or {}).items()},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with daemon(["Orthanc", path], log=folder / "orthanc.log", env=clean_environment(**NODELAY)) as process:
        process.wait_for_port(dicom, within=30)
        yield Scp(dicom, "ORTHANC")
