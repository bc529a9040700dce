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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from pacs_core.dimse.account import ServedAssociation, log_closed, record_of
from pacs_core.dimse.admission import Admission, Refused
from pacs_core.dimse.callers import Callers
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import AssociationEnded, Connection, ReleaseRequested
from pacs_core.dimse.negotiation import Acceptance, Acceptor, Context, NotAccepted, Rejection
from pacs_core.dimse.services import NOT_AUTHORIZED, Service, refuse
from pacs_core.errors import ConfigurationError
from pacs_core.model import AssociationRecord
from pacs_core.telemetry.sparing import Sparing
from pacs_core.telemetry.timing import TOTAL, Tally, Timings

log = structlog.get_logger(__name__)

_BACKLOG = 512
_ACCEPT_AGAIN = 0.1  # seconds; no descriptors are left, most likely


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener process grants.

    Attributes:
        associations: open at once; one more is rejected (transient, local limit exceeded).
        per_address: connections at once from one address, negotiated or not; one more is closed at once.
        handshake: seconds in which a peer must finish its association request, however busily it sends.
        silence: seconds that a peer may keep silent within a message.
        idle: seconds that an association may stay without a message.
    """

    associations: int = 200
    per_address: int = 250
    handshake: float = 20
    silence: float = 20
    idle: float = 300


@dataclass(slots=True, eq=False)
class _Session:
    connection: Connection
    address: str
    peer: str
    accepted_at: float
    idle: bool = True  # nothing is lost if it is ended now
    lock: threading.Lock = field(default_factory=threading.Lock)


class Listener:
    """One listener process's share of the DICOM port.

    Args:
        address: host and port to bind to.
        ae_title: ours; other called AE titles are rejected. "" takes any.
        services: what is offered. The first that supports an abstract syntax serves it.
        limits: what is granted.
        callers: who may open an association, and ask for what; None lets everybody do everything.
        record: told of each association that has ended; it returns at once.
        timings: takes note of how long each negotiation and each operation takes.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        ae_title: str,
        services: Sequence[Service],
        limits: Limits,
        callers: Callers | None = None,
        record: Callable[[AssociationRecord], None] = lambda _: None,
        timings: Timings | None = None,
    ) -> None:
        self._address = address
        self._services = services
        self._limits = limits
        self._callers = callers
        self._record = record
        self._acceptor = Acceptor(Acceptance(self._supports, self._peer_may_be_scp, self._extended, ae_title))
        self._timings = timings or Timings()
        self._admission = Admission(associations=limits.associations, per_address=limits.per_address)
        self._refusals = Sparing()
        self._ids = itertools.count(1)
        self._sessions: set[_Session] = set()
        self._left = threading.Condition()  # guards the sessions, and tells when one has left
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
                if (unlogged := self._refusals.admit()) is not None:
                    log.exception("accept_failed", unlogged_before=unlogged)
                self._stopping.wait(_ACCEPT_AGAIN)
                continue
            self._admit(sock, peer[0], f"{peer[0]}:{peer[1]}")
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
        with self._left:
            for session in self._sessions:
                session.connection.hurry()
                with session.lock:
                    if session.idle:
                        session.connection.end_reading()
            self._left.wait_for(lambda: not self._sessions, self._limits.silence)

    def _admit(self, sock: socket.socket, address: str, peer: str) -> None:
        """Give a connection a thread, or close it."""
        try:
            self._admission.enter(address)
        except Refused as exc:
            self._refuse(sock, peer, str(exc))
            return
        try:
            connection = Connection(sock, requestor=False, timeout=self._limits.silence)
        except OSError as exc:  # it was reset before we came to it
            self._admission.leave(address)
            self._refuse(sock, peer, exc.strerror or "the connection broke")
            return
        session = _Session(connection, address, peer, time.perf_counter())
        with self._left:
            self._sessions.add(session)
        try:
            threading.Thread(target=self._run, args=(session,), name=f"assoc-{peer}", daemon=True).start()
        except RuntimeError:
            self._refuse(sock, peer, "no more threads are to be had")
            self._leave(session)

    def _refuse(self, sock: socket.socket, peer: str, reason: str) -> None:
        sock.close()
        if (unlogged := self._refusals.admit()) is not None:
            log.warning("connection_refused", peer=peer, reason=reason, unlogged_before=unlogged)

    def _leave(self, session: _Session) -> None:
        self._admission.leave(session.address)
        with self._left:
            self._sessions.discard(session)
            self._left.notify_all()

    def _run(self, session: _Session) -> None:
        """The life of one connection. A process boundary: whatever goes wrong ends this association only."""
        try:
            with self._timings.tally() as tally:
                self._converse(session, tally)
        except AssociationEnded as exc:
            log.info("connection_ended", peer=session.peer, reason=str(exc))
        except Exception:
            log.exception("association_failed", peer=session.peer)
        finally:
            session.connection.abort()  # says nothing where the association has ended in another way
            self._leave(session)

    def _converse(self, session: _Session, tally: Tally) -> None:
        connection = session.connection
        try:
            answer, agreement = self._acceptor.accept(connection.await_request(timeout=self._limits.handshake))
            if self._callers is not None:
                self._callers.admit(agreement.calling_ae)
            with self._slot():
                connection.peer_maximum = agreement.peer_maximum
                connection.accept(answer)
                self._note_negotiation(session, "accepted")
                self._serve(session, ServedAssociation(f"{os.getpid()}-{next(self._ids)}", connection, agreement, session.peer), tally)
        except NotAccepted as exc:
            log.warning("association_rejected", peer=session.peer, reason=str(exc))
            connection.reject(exc.rejection.encode())
            self._note_negotiation(session, "rejected")

    def _note_negotiation(self, session: _Session, status: str) -> None:
        self._timings.record("association", "negotiation", time.perf_counter() - session.accepted_at, status=status)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the associations that may be open at once; NotAccepted, for now, if there is none."""
        if self._stopping.is_set():
            raise NotAccepted(Rejection.TEMPORARY_CONGESTION, "the archive is stopping")
        try:
            self._admission.associate()
        except Refused as exc:
            raise NotAccepted(Rejection.LOCAL_LIMIT_EXCEEDED, str(exc)) from exc
        try:
            yield
        finally:
            self._admission.dissociate()

    def _serve(self, session: _Session, assoc: ServedAssociation, tally: Tally) -> None:
        log.debug("association_opened", association=assoc.id, peer=assoc.peer_address, calling=assoc.agreement.calling_ae)
        reason, in_order = "crashed", False
        try:
            while True:
                self._serve_one(session, assoc)
        except ReleaseRequested:
            reason, in_order = "released", True
            assoc.connection.confirm_release()
        except AssociationEnded as exc:
            reason = str(exc)
        finally:
            for service in self._services:
                service.ended(assoc)
            seconds = time.perf_counter() - session.accepted_at
            log_closed(assoc, tally, reason=reason, in_order=in_order, seconds=seconds)
            self._record(record_of(assoc, tally, ended=reason, seconds=seconds))

    def _serve_one(self, session: _Session, assoc: ServedAssociation) -> None:
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
        started = time.perf_counter()
        try:
            self._perform(assoc, context, command)
        finally:
            self._timings.record(command.operation, TOTAL, time.perf_counter() - started, status=assoc.take_status())

    def _perform(self, assoc: ServedAssociation, context: Context, command: Command) -> None:
        assoc.forget_cancellations()
        service = self._service(context.served_as)
        if service is None or not (context.as_scp or command.CommandField == CommandField.N_EVENT_REPORT):
            refuse(assoc, context, command)
        elif not self._may(assoc.agreement.calling_ae, service):
            log.warning("not_authorized", association=assoc.id, calling=assoc.agreement.calling_ae, operation=command.operation)
            refuse(assoc, context, command, status=NOT_AUTHORIZED, comment=f"this AE title may not {service.permission}")
        else:
            service.serve(assoc, context, command)

    def _may(self, calling_ae: str, service: Service) -> bool:
        return self._callers is None or self._callers.may(calling_ae, service.permission)

    def _service(self, abstract_syntax: str) -> Service | None:
        return next((service for service in self._services if service.supports(abstract_syntax)), None)

    def _supports(self, abstract_syntax: str) -> frozenset[str]:
        service = self._service(abstract_syntax)
        return service.supports(abstract_syntax) if service else frozenset()

    def _peer_may_be_scp(self, abstract_syntax: str) -> bool:
        return any(service.peer_may_be_scp(abstract_syntax) for service in self._services)

    def _extended(self, abstract_syntax: str, proposed: bytes) -> bytes | None:
        service = self._service(abstract_syntax)
        return service.extended(abstract_syntax, proposed) if service else None
