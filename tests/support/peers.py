"""A caller whose peers are in the test's hands: associations over real sockets, without negotiation."""

import itertools
import socket
import threading
from collections.abc import Sequence

from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.connection import Connection
from pacs_core.dimse.negotiation import Agreement, Context, Proposal
from pacs_core.dimse.upper_layer import State
from pacs_core.errors import PeerUnavailable
from pacs_core.model import Peer
from tests.support.upper_layer import established


class FakeCaller(Caller):
    """Opens an association whose other end it keeps in `theirs`; every proposal is accepted.

    Attributes:
        theirs: the acceptors' ends, in the order of opening.
        away: whether the peers do not answer.
    """

    def __init__(self) -> None:
        super().__init__("SCU", timeout=10)
        self.theirs: list[Connection] = []
        self._ours: list[Connection] = []
        self.away = False
        self._lock = threading.Lock()

    def associate(self, peer: Peer, proposals: Sequence[Proposal]) -> Association:
        if self.away:
            raise PeerUnavailable(f"{peer.ae_title} does not answer")
        with self._lock, socket.create_server(("127.0.0.1", 0)) as listening:
            ours = Connection(socket.create_connection(listening.getsockname()), requestor=True, timeout=10)
            ours._machine.state = State.ESTABLISHED
            self.theirs.append(established(listening.accept()[0], timeout=10))
            self._ours.append(ours)
        ids = itertools.count(1, 2)
        contexts = [
            Context(next(ids), each.abstract_syntax, each.transfer_syntaxes[0], as_scu=True, as_scp=False, served_as=each.abstract_syntax)
            for each in proposals
        ]
        agreement = Agreement(self.ae_title, peer.ae_title, {context.id: context for context in contexts}, 16_384, {})
        return Association(f"out-{len(self.theirs)}", ours, agreement, peer.host)

    def close(self) -> None:
        """Hang up everywhere, at both ends."""
        for connection in (*self.theirs, *self._ours):
            connection.close()
