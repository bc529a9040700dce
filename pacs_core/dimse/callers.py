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
_PATIENCE = 0.25  # seconds for a reading; whoever cannot wait goes by what was read before
_FIRST_READING = 5.0  # seconds


class Callers:
    """Thread-safe. The peers are read at most once in a moment, by a thread of their own: a database that does not answer holds up
    nobody, and what was read last counts meanwhile.

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
        self._reading: threading.Event | None = None  # set when the reading that is under way has ended

    def admit(self, ae_title: str) -> None:
        """NotAccepted unless it may open an association: for good if it is unknown, for now if that cannot be told."""
        if not self._known_only:
            return
        known = self._directory(needed=True)
        if known is None:
            raise NotAccepted(Rejection.TEMPORARY_CONGESTION, "the peers cannot be read")
        if ae_title not in known:
            raise NotAccepted(Rejection.CALLING_AE_NOT_RECOGNISED, f"calling AE title {ae_title!r} is no peer's; `pacs peer add` enters it")

    def may(self, ae_title: str, permission: Permission | None) -> bool:
        """Whether it may ask for what needs that permission; None is for everybody."""
        peer = (self._directory() or {}).get(ae_title) if permission else None
        return peer is None or permission is None or peer.may(permission)

    def _directory(self, *, needed: bool = False) -> Mapping[str, Peer] | None:
        """The peers by AE title, None if they were never read.

        Whoever finds them old has them read, and waits for that a little; everybody else takes them as they are. Where nothing can be
        done without them, the first reading is waited for.
        """
        with self._lock:
            if self._reading is None and self._now() - self._read_at >= _FRESH:
                self._read_at, self._reading = self._now(), threading.Event()
                threading.Thread(target=self._read, args=(self._reading,), name="peers", daemon=True).start()
                awaited: threading.Event | None = self._reading
            else:
                awaited = self._reading if needed and self._known is None else None
        if awaited is not None:
            awaited.wait(_FIRST_READING if needed and self._known is None else _PATIENCE)
        return self._known

    def _read(self, ended: threading.Event) -> None:
        try:
            self._known = {str(peer.ae_title): peer for peer in self._peers.all()}
        except PacsError as exc:
            log.warning("peers_not_read", reason=str(exc))
        except Exception:  # a process boundary
            log.exception("peers_not_read")
        finally:
            with self._lock:
                self._reading = None
            ended.set()
