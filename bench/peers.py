"""The archives that are compared, each started empty in a folder of its own."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path

from tests.support.archive import Listener
from tests.support.catalog import Catalogs
from tests.support.dcmtk import Scp
from tests.support.processes import clean_environment, daemon, free_ports

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
        for listener in (first, *(copy(first) for _ in range(listeners - 1))):
            listener.start()
            stack.callback(listener.stop)
        yield first


@contextmanager
def storescp(folder: Path, *, port: int | None = None, ae_title: str = "STORESCP") -> Iterator[Scp]:
    """DCMTK's storescp, bit-preserving, one process for each association."""
    folder.mkdir(parents=True)
    port = port or free_ports(1)[0]
    command = ["storescp", "--fork", "+B", "-od", folder, "-aet", ae_title, "--max-pdu", "131072", str(port)]
    with daemon(command, log=folder.with_suffix(".log"), env=clean_environment(**NODELAY)) as process:
        process.wait_for_port(port, within=10)
        yield Scp(port, ae_title)


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
