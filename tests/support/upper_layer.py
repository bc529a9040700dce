"""Connections with an association on them, and none of the negotiation."""

import socket

from pacs_core.dimse.connection import Connection
from pacs_core.dimse.upper_layer import State


def established(sock: socket.socket, *, timeout: float = 2) -> Connection:
    """A connection of an acceptor whose association is open."""
    connection = Connection(sock, requestor=False, timeout=timeout)
    connection._machine.state = State.ESTABLISHED
    return connection
