"""Who may open an association and what it may do then: what the peers' entries say of a calling AE title."""

import threading
import time
from collections.abc import Callable, Mapping

import structlog

from pacs_core.dimse.negotiation import NotAccepted, Rejection
from pacs_core.errors import PacsError
from pacs_core.model import Peer, Permission
from pacs_core.ports import PeerDirectory

log = structlog.get_logger(__name__)

_FRESH = 2.0  # seconds; so soon a change of the peers holds


class Callers:
    """Thread-safe. The peers are read at most once in a moment, and what was read last counts while they cannot be.

    Args:
        peers: where they are entered.
        known_only: whether a calling AE title that is no peer's is turned away. Otherwise it may do everything.
    """

    def __init__(self, peers: PeerDirectory, *, known_only: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._peers = peers
        self._known_only = known_only
        self._now = now
        self._lock = threading.Lock()
        self._known: Mapping[str, Peer] | None = None
        self._read_at = float("-inf")

    def admit(self, ae_title: str) -> None:
        """NotAccepted unless it may open an association: for good if it is unknown, for now if that cannot be told."""
        if not self._known_only:
            return
        known = self._directory()
        if known is None:
            raise NotAccepted(Rejection.TEMPORARY_CONGESTION, "the peers cannot be read")
        if ae_title not in known:
            raise NotAccepted(Rejection.CALLING_AE_NOT_RECOGNISED, f"calling AE title {ae_title!r} is no peer's; `pacs peer add` enters it")

    def may(self, ae_title: str, permission: Permission | None) -> bool:
        """Whether it may ask for what needs that permission; None is for everybody."""
        peer = (self._directory() or {}).get(ae_title) if permission else None
        return peer is None or permission is None or peer.may(permission)

    def _directory(self) -> Mapping[str, Peer] | None:
        """The peers by AE title, None if they were never read."""
        with self._lock:
            if self._now() - self._read_at >= _FRESH:
                self._read_at = self._now()
                try:
                    self._known = {str(peer.ae_title): peer for peer in self._peers.all()}
                except PacsError as exc:
                    log.warning("peers_not_read", reason=str(exc))
            return self._known
