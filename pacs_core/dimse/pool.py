"""Associations to peers, kept open for a while and used again: opening one costs a peer more than taking in an instance."""

import os
import select
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.connection import AssociationEnded, ReleaseRequested
from pacs_core.dimse.negotiation import Proposal
from pacs_core.errors import PeerUnavailable
from pacs_core.model import Peer

_GOODBYE = 2.0  # seconds that a peer has for a release; nothing depends on it
_CLOSING = 3.0  # seconds for all of them when the pool is closed


@dataclass(slots=True, eq=False)
class Loan:
    """An open association that belongs to whoever borrowed it until it is given back.

    Attributes:
        assoc: the association.
        peer: whom it leads to.
        proposals: what was proposed when it was opened.
        reused: it was idle before. Its peer may be ending it at this moment; only using it tells.
    """

    assoc: Association
    peer: Peer
    proposals: frozenset[Proposal]
    reused: bool = False
    idle_since: float = 0.0


@dataclass(slots=True)
class _Line:
    """The associations to one peer."""

    open: int = 0  # on loan, idle, being opened or being ended
    idle: list[Loan] = field(default_factory=list)  # the longest idle first


class AssociationPool:
    """Lends associations. Thread-safe.

    The idle ones are watched by a thread, which lives while there are any: a peer that ends one is answered at once, and
    after a time they are released.

    Args:
        caller: opens associations.
        idle: seconds that an association is kept for the next who needs it; 0 keeps none.
        maximum: associations open to one peer at once.
        patience: seconds to wait for one of them where all are in use.
    """

    def __init__(self, caller: Caller, *, idle: float = 5, maximum: int = 4, patience: float = 20) -> None:
        self._caller = caller
        self._idle = idle
        self._maximum = maximum
        self._patience = patience
        self._lines: dict[Peer, _Line] = {}
        self._leaving: list[Loan] = []  # not lent any more, and not ended yet
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None
        self._closed = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def borrow(self, peer: Peer, proposals: Sequence[Proposal]) -> Loan:
        """An association for which these presentation contexts, and perhaps others, were proposed. To be given back.

        PeerUnavailable if the peer refuses or is not there, or where all that it may have stay in use for too long.
        """
        wanted = frozenset(proposals)
        with self._changed:
            loan = self._reserve(peer, wanted)
        if loan is not None and loan.proposals >= wanted:
            return loan
        try:
            if loan is not None:
                _end(loan.assoc)
            return Loan(self._caller.associate(peer, proposals), peer, wanted)
        except BaseException:
            self._forget(peer)
            raise

    def give_back(self, loan: Loan) -> None:
        """End a loan. The association is kept if it is open: whoever has left it in the middle of something has aborted it."""
        with self._changed:
            if self._idle and not self._closed and loan.assoc.connection.is_open:
                loan.reused, loan.idle_since = True, time.monotonic()
                self._lines[loan.peer].idle.append(loan)
                self._watch()
                self._changed.notify_all()
                return
        _end(loan.assoc)
        self._forget(loan.peer)

    def close(self) -> None:
        """Release the idle ones and lend no more. Those on loan are released when they are given back. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._nudge()
            if self._changed.wait_for(lambda: self._watcher is None, _CLOSING) and self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    # Lending; the lock is held

    def _reserve(self, peer: Peer, wanted: frozenset[Proposal]) -> Loan | None:
        """An idle association to lend, or one to end in favour of another; None where one more may be opened."""
        deadline = time.monotonic() + self._patience
        while not self._closed:
            line = self._lines.setdefault(peer, _Line())
            self._retire([loan for loan in line.idle if loan.assoc.connection.readable()])
            fitting = [loan for loan in line.idle if loan.proposals >= wanted]
            if not fitting and line.open < self._maximum:
                line.open += 1
                return None
            if line.idle:
                loan = fitting[-1] if fitting else line.idle[0]
                line.idle.remove(loan)
                return loan
            if not self._changed.wait(deadline - time.monotonic()):
                raise PeerUnavailable(
                    f"{line.open} associations to {peer.ae_title} are in use, and none became free in {self._patience:g} s"
                )
        raise PeerUnavailable(f"{peer.ae_title} is not called any more: the archive is stopping")

    def _retire(self, loans: Sequence[Loan]) -> None:
        """Leave idle associations to the watcher to be ended."""
        for loan in loans:
            self._lines[loan.peer].idle.remove(loan)
            self._leaving.append(loan)
        if loans:
            self._nudge()

    def _forget(self, peer: Peer) -> None:
        """An association is open no more. Takes the lock."""
        with self._changed:
            line = self._lines[peer]
            line.open -= 1
            if not line.open:
                del self._lines[peer]
            self._changed.notify_all()

    # Watching

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._tend, name="idle-associations", daemon=True)
            self._watcher.start()
        else:
            self._nudge()

    def _nudge(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _tend(self) -> None:
        """End idle associations when their time or their peer says so, until there is none."""
        while True:
            with self._changed:
                idle = self._retire_due()
                leaving, self._leaving = self._leaving, []
                if not idle and not leaving:
                    self._watcher = None
                    self._changed.notify_all()
                    return
                poll = self._poll(idle)
                due = min((loan.idle_since for loan in idle), default=0.0) + self._idle
            for loan in leaving:
                _end(loan.assoc)
                self._forget(loan.peer)
            if not leaving:
                poll.poll(max(due - time.monotonic(), 0) * 1000)
                with suppress(BlockingIOError):
                    os.eventfd_read(self._wake)

    def _retire_due(self) -> Sequence[Loan]:
        """Retire what is idle for too long or has something to say; the others."""
        idle = [loan for line in self._lines.values() for loan in line.idle]
        oldest = time.monotonic() - self._idle
        due = [loan for loan in idle if self._closed or loan.idle_since <= oldest or loan.assoc.connection.readable()]
        self._retire(due)
        return [loan for loan in idle if loan not in due]

    def _poll(self, idle: Sequence[Loan]) -> select.poll:
        poll = select.poll()
        for descriptor in (self._wake, *(loan.assoc.connection.fileno() for loan in idle)):
            poll.register(descriptor, select.POLLIN)
        return poll


def _end(assoc: Association) -> None:
    """Release an association, or answer what its peer has said while it was idle. Closed, come what may."""
    connection = assoc.connection
    try:
        if connection.is_open and connection.readable():
            assoc.receive(idle=_GOODBYE)
            connection.abort()  # a message that nobody asked for
        connection.release(timeout=_GOODBYE)
    except ReleaseRequested:
        with suppress(AssociationEnded):
            connection.confirm_release()
    except AssociationEnded:
        pass
    finally:
        connection.close()
