"""Accepts associations and gives each a thread (PS3.8 7.1.1).

Several listener processes may share one port (SO_REUSEPORT): the kernel spreads connections over them. The accept loop
only accepts; whatever a peer can delay (its request, its messages) happens in the peer's own thread, under deadlines.
A slot is taken once an association is negotiated, so connections that never say anything keep nobody out.
"""

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from pacs_core.dimse.association import Association
from pacs_core.dimse.command import CommandField
from pacs_core.dimse.connection import AssociationEnded, Connection, ReleaseRequested
from pacs_core.dimse.negotiation import Acceptance, NotAccepted, Rejection, accept
from pacs_core.dimse.services import UNRECOGNIZED_OPERATION, Service
from pacs_core.dimse.services.query import accept_extended
from pacs_core.dimse.services.retrieve import accept_peer_as_scp
from pacs_core.errors import ConfigurationError

log = structlog.get_logger(__name__)

# Connections that have not negotiated yet, beside the associations that have.
_HANDSHAKES = 200
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener process grants.

    Attributes:
        associations: open at once; one more is rejected (transient, local limit exceeded).
        handshake: seconds in which a peer must finish its association request.
        silence: seconds that a peer may keep silent within a message.
        idle: seconds that an association may stay without a message.
    """

    associations: int = 100
    handshake: float = 30
    silence: float = 30
    idle: float = 300


@dataclass(slots=True, eq=False)
class _Session:
    connection: Connection
    idle: bool = True  # nothing is lost if it is ended now
    lock: threading.Lock = field(default_factory=threading.Lock)


class Listener:
    """One listener process's share of the DICOM port.

    Args:
        address: host and port to bind to.
        ae_title: ours; other called AE titles are rejected.
        services: what is offered. The first that supports an abstract syntax serves it.
    """

    def __init__(self, address: tuple[str, int], *, ae_title: str, services: Sequence[Service], limits: Limits) -> None:
        self._address = address
        self._services = services
        self._limits = limits
        self._policy = Acceptance(self._supports, accept_peer_as_scp, accept_extended, ae_title)
        self._ids = itertools.count(1)
        self._sessions: set[_Session] = set()
        self._open = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._socket: socket.socket | None = None

    def bind(self) -> None:
        """Take the port; connections queue from now on. ConfigurationError if it cannot be had."""
        sock = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            sock.bind(self._address)
            sock.listen(_BACKLOG)
        except OSError as exc:
            sock.close()
            raise ConfigurationError(f"dicom_port {self._address[1]}: {exc.strerror}; set PACS_DICOM_PORT to a free port") from exc
        self._socket = sock

    @property
    def port(self) -> int:
        """The port that was taken (of interest where 0, any free one, was asked for)."""
        assert self._socket is not None, "bind first"
        return int(self._socket.getsockname()[1])

    def serve(self) -> None:
        """Accept until `stop`. Returns when every association has ended."""
        assert self._socket is not None, "bind first"
        while not self._stopping.is_set():
            try:
                sock, peer = self._socket.accept()
            except OSError:
                if self._stopping.is_set():
                    break
                log.exception("accept_failed")
                self._stopping.wait(0.1)
                continue
            self._admit(sock, f"{peer[0]}:{peer[1]}")
        self._finish()

    def stop(self) -> None:
        """Accept no more, and have `serve` end: idle associations now, the others after the operation they are in.

        Takes no lock: it may be called from a signal handler.
        """
        self._stopping.set()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the accept

    def _finish(self) -> None:
        assert self._socket is not None
        self._socket.close()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            with session.lock:
                if session.idle:
                    session.connection.end_reading()
        deadline = time.monotonic() + self._limits.silence
        while self._sessions and time.monotonic() < deadline:
            time.sleep(0.01)

    def _admit(self, sock: socket.socket, peer: str) -> None:
        session = _Session(Connection(sock, requestor=False, timeout=self._limits.silence))
        with self._lock:
            crowded = len(self._sessions) >= self._limits.associations + _HANDSHAKES
            if not crowded:
                self._sessions.add(session)
        if crowded:
            log.warning("connection_refused", peer=peer, reason="too many connections")
            sock.close()
            return
        try:
            threading.Thread(target=self._run, args=(session, peer), name=f"assoc-{peer}", daemon=True).start()
        except RuntimeError:  # no more threads are to be had
            log.exception("connection_refused", peer=peer, reason="no thread")
            sock.close()
            with self._lock:
                self._sessions.discard(session)

    def _run(self, session: _Session, peer: str) -> None:
        """The life of one connection. A process boundary: whatever goes wrong ends this association only."""
        try:
            self._converse(session, peer)
        except AssociationEnded as exc:
            log.info("connection_ended", peer=peer, reason=str(exc))
        except Exception:
            log.exception("association_failed", peer=peer)
        finally:
            session.connection.abort()  # says nothing where the association has ended in another way
            with self._lock:
                self._sessions.discard(session)

    def _converse(self, session: _Session, peer: str) -> None:
        connection = session.connection
        try:
            answer, agreement = accept(connection.await_request(timeout=self._limits.handshake), self._policy)
            with self._slot():
                connection.peer_maximum = agreement.peer_maximum
                connection.accept(answer)
                self._serve(session, Association(f"{os.getpid()}-{next(self._ids)}", connection, agreement, peer))
        except NotAccepted as exc:
            log.warning("association_rejected", peer=peer, reason=str(exc))
            connection.reject(exc.rejection.encode())

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the associations that may be open at once; NotAccepted if there is none."""
        with self._lock:
            if self._stopping.is_set() or self._open >= self._limits.associations:
                raise NotAccepted(Rejection.LOCAL_LIMIT_EXCEEDED, f"{self._open} associations are open")
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def _serve(self, session: _Session, assoc: Association) -> None:
        log.info("association_opened", association=assoc.id, peer=assoc.peer_address, calling=assoc.agreement.calling_ae)
        try:
            while True:
                self._serve_one(session, assoc)
        except ReleaseRequested:
            assoc.connection.confirm_release()
            log.info("association_released", association=assoc.id)
        except AssociationEnded as exc:
            log.warning("association_ended", association=assoc.id, reason=str(exc))

    def _serve_one(self, session: _Session, assoc: Association) -> None:
        with session.lock:
            session.idle = True
        if self._stopping.is_set():
            raise AssociationEnded("the archive is stopping")
        context, command = assoc.receive(idle=self._limits.idle)
        with session.lock:
            session.idle = False
        if command.is_response or command.CommandField == CommandField.C_CANCEL:
            # A cancel may come when the operation has just ended; neither has an answer (PS3.7 9.3.2.3).
            assoc.skip_data_set(context, command)
            return
        assoc.forget_cancellations()
        service = self._service(context.abstract_syntax)
        if service is None or not context.as_scp:
            assoc.skip_data_set(context, command)
            assoc.send(context, command.response(UNRECOGNIZED_OPERATION))
        else:
            service.serve(assoc, context, command)

    def _service(self, abstract_syntax: str) -> Service | None:
        return next((service for service in self._services if service.supports(abstract_syntax)), None)

    def _supports(self, abstract_syntax: str) -> frozenset[str]:
        service = self._service(abstract_syntax)
        return service.supports(abstract_syntax) if service else frozenset()
