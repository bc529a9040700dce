"""Who may be connected: so many connections in all, so many of them from one address, so many associations."""

import threading
from collections import Counter


class Refused(Exception):
    """A connection or an association too many; the message says which."""


class Admission:
    """Counts connections and associations. Thread-safe.

    A connection counts from the moment it is accepted, an association once it is negotiated: connections that never say
    anything take no association from anybody, and one address cannot take all connections.

    Args:
        associations: open at once.
        per_address: connections at once from one address, negotiated or not.
    """

    def __init__(self, *, associations: int, per_address: int) -> None:
        self._associations = associations
        self._per_address = per_address
        # Two hosts that do nothing but connect leave as many connections to others as there may be associations.
        self._connections = associations + 2 * per_address
        self._lock = threading.Lock()
        self._connected = 0
        self._from = Counter[str]()
        self._associated = 0

    def enter(self, address: str) -> None:
        """Count a connection until `leave`. Refused if it is one too many."""
        with self._lock:
            if self._from[address] >= self._per_address:
                raise Refused(f"{self._per_address} connections are open from this address")
            if self._connected >= self._connections:
                raise Refused(f"{self._connections} connections are open")
            self._connected += 1
            self._from[address] += 1

    def leave(self, address: str) -> None:
        """A connection that was let in is closed."""
        with self._lock:
            self._connected -= 1
            self._from[address] -= 1
            if not self._from[address]:
                del self._from[address]

    def associate(self) -> None:
        """Count an association until `dissociate`. Refused if it is one too many."""
        with self._lock:
            if self._associated >= self._associations:
                raise Refused(f"{self._associations} associations are open")
            self._associated += 1

    def dissociate(self) -> None:
        """An association has ended."""
        with self._lock:
            self._associated -= 1
