"""Starts flows from where something has happened that they see to."""

import threading
import time
from collections.abc import Callable

import structlog

from pacs_core.errors import PacsError

log = structlog.get_logger(__name__)

_FLOW_TIMEOUT = 5.0


class FlowStarter:
    """Runs a flow now, if a Prefect server answers; its schedule does later what this cannot. Called from any thread.

    Args:
        flow: its name.
        api_url: of the Prefect server.
        at_most_every: seconds; what is called sooner does nothing.
        run: starts a run of a flow; PacsError if that is impossible.
    """

    def __init__(
        self,
        flow: str,
        api_url: str,
        *,
        at_most_every: float,
        run: Callable[[str, str], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flow = flow
        self._api_url = api_url
        self._every = at_most_every
        self._start_run = run or _run_flow
        self._now = now
        self._last = float("-inf")
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Returns at once and never fails; does nothing where it has been called a moment before."""
        with self._lock:
            if self._now() - self._last < self._every:
                return
            self._last = self._now()
        threading.Thread(target=self._run, name=self._flow, daemon=True).start()

    def _run(self) -> None:
        try:
            self._start_run(self._api_url, self._flow)
        except PacsError as exc:
            log.debug("flow_not_started", flow=self._flow, reason=str(exc))


def _run_flow(api_url: str, flow: str) -> None:
    # Imported here: a listener that never starts a flow starts sooner without an HTTP client.
    from pacs_core.supervisor.flow_api import FlowApi

    with FlowApi(api_url, timeout=_FLOW_TIMEOUT) as api:
        api.run(flow)
