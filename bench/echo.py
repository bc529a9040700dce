"""C-ECHO: `python -m bench.echo [--rounds 5] [--quick]`. Round trips per second over one association."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from bench.command import parse, scratch
from bench.peers import orthanc, ours, pynetdicom, storescp
from bench.table import Ratio, interleave, report
from bench.wire import VERIFICATION, Client, connected, echo_request
from tests.support.dcmtk import Scp

_ROUND_TRIPS = 10_000


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    with scratch() as root, ExitStack() as stack:
        peers = {
            "pacs": stack.enter_context(ours(root / "pacs")).scp,
            "pynetdicom": stack.enter_context(pynetdicom(root / "pynetdicom"))[0],
            "storescp": stack.enter_context(storescp(root / "storescp")),
            "orthanc": stack.enter_context(orthanc(root / "orthanc")),
        }
        round_trips = options.scaled(_ROUND_TRIPS)
        results = interleave({name: _echoer(scp, round_trips) for name, scp in peers.items()}, rounds=options.rounds)
    report("C-ECHO, 1 association", "round trips/s", results, us="pacs", targets=[Ratio("pacs", "pynetdicom", 3.0)])


def _echoer(scp: Scp, round_trips: int) -> Callable[[int], float]:
    def echo(_: int) -> float:
        with connected(scp, VERIFICATION) as client:
            started = time.perf_counter()
            _echo(client, round_trips)
            return round_trips / (time.perf_counter() - started)

    return echo


def _echo(client: Client, times: int) -> None:
    request = echo_request()
    for _ in range(times):
        client.send(request)
        if (status := client.receive().status) != 0:
            raise SystemExit(f"C-ECHO was answered with {status:04X}")


if __name__ == "__main__":
    main()
