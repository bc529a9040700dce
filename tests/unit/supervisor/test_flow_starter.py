import threading

from pacs_core.errors import PeerUnavailable
from pacs_core.supervisor.flow_starter import FlowStarter


def test_a_flow_is_started_at_most_once_in_its_time_and_never_fails() -> None:
    now, started = [0.0], threading.Semaphore(0)

    def run(url: str, flow: str) -> None:
        assert (url, flow) == ("http://prefect", "recall")
        started.release()
        raise PeerUnavailable("no server")

    start = FlowStarter("recall", "http://prefect", at_most_every=30, run=run, now=lambda: now[0])
    for _ in range(3):
        start()
    assert started.acquire(timeout=10)
    now[0] = 31
    start()
    assert started.acquire(timeout=10)
    assert not started.acquire(blocking=False)
