"""Stopping: `python -m bench.stop [--rounds 5] [--quick]`. How long a listener lives on when its last C-STORE is answered.

SIGTERM comes while five clients are halfway through a data set. They finish it, each must get Success, and the clock runs from
the last of these answers to the end of the process. The clients hang up when their association is aborted, as DCMTK's do; in
the second row they do nothing at all.
"""

import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pydicom.uid import CTImageStorage

from bench.command import parse, scratch
from bench.peers import ours, start
from bench.table import Limit, interleave, report
from bench.wire import Client, connected, store_request
from tests.support.archive import Listener
from tests.support.dcmtk import Scp
from tests.support.synthetic import Study
from tests.support.waiting import eventually

_CLIENTS = 5
_ESTABLISHED = "01"  # in /proc/net/tcp
_POLITE, _SILENT = "pacs, clients hang up", "pacs, clients do nothing"


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    with scratch() as root, ours(root / "pacs") as pacs:
        candidates = {
            _POLITE: lambda _: _stop(pacs, hang_up=True),
            _SILENT: lambda _: _stop(pacs, hang_up=False),
        }
        results = interleave(candidates, rounds=2 if options.quick else options.rounds)
    title = f"stop with {_CLIENTS} associations within C-STOREs, from the last answer to the end"
    report(title, "ms", results, targets=[Limit(_POLITE, 110), Limit(_SILENT, 110)])


def _stop(listener: Listener, *, hang_up: bool) -> float:
    """Milliseconds from the last answer to the process's end. The listener runs again when this returns."""
    process = listener.process.process
    with ThreadPoolExecutor(_CLIENTS + 1) as pool, ExitStack() as stack:
        clients = [stack.enter_context(connected(listener.scp, CTImageStorage)) for _ in range(_CLIENTS)]
        rests = [_send_half(client) for client in clients]
        eventually(lambda: _unread(listener.dicom_port) == [0] * _CLIENTS, what=f"{_CLIENTS} associations that wait for more")
        ended = pool.submit(_wait, process)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: not _accepts(listener.scp), what="a closed port")
        answered = max(pool.map(partial(_finish, hang_up=hang_up), clients, rests))
        milliseconds = (ended.result() - answered) * 1000
    start(listener)
    return milliseconds


def _send_half(client: Client) -> bytes:
    """Begin a C-STORE; what remains to be sent."""
    request = store_request(next(Study("CT").datasets()))
    half = len(request) // 2
    client.send(request[:half])
    return request[half:]


def _finish(client: Client, rest: bytes, *, hang_up: bool) -> float:
    """When the answer came."""
    client.send(rest)
    status = client.receive().status
    answered = time.perf_counter()
    if status != 0:
        raise SystemExit(f"a C-STORE within a stop was answered with {status:04X}")
    if hang_up:
        client.pdu()  # the abort
        client.close()
    return answered


def _wait(process: "subprocess.Popen[bytes]") -> float:
    """When it ended. SystemExit if it ended badly."""
    status = process.wait()
    ended = time.perf_counter()
    if status != 0:
        raise SystemExit(f"the listener exited {status}")
    return ended


def _unread(port: int) -> list[int]:
    """For each open connection to a port, the bytes that its server has not read yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [row[4].split(":")[1] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == _ESTABLISHED]
    return [int(queue, 16) for queue in queues]


def _accepts(scp: Scp) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((scp.host, scp.port)) == 0


if __name__ == "__main__":
    main()
