"""MLLP: takes orders over TCP and acknowledges each when it is kept (HL7 v2.5 chapter 2.9, appendix C of the implementation guide)."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import hl7
import structlog
from hl7.mllp import HL7StreamReader, HL7StreamWriter, InvalidBlockError, start_hl7_server

from pacs_core.errors import ConfigurationError, PacsError, RequestError
from pacs_core.hl7.orders import Order, Unsupported, acknowledgement, decode, order_of
from pacs_core.telemetry.sparing import Sparing

log = structlog.get_logger(__name__)

_LARGEST = 1 << 20  # bytes of a message
_CONNECTIONS = 64
_STOPPING = 5.0  # seconds for what is at work

# Keeps what an order asks for, all or nothing; how many items that concerned.
Keep = Callable[[Order], int]


class OrderServer:
    """Listens until it is stopped. Messages of one connection are answered one after the other.

    Args:
        address: host and port.
        stations: where to schedule what names no station, by modality.
        keep: called from a thread.
        idle: seconds after which a silent connection is closed.
    """

    def __init__(self, address: tuple[str, int], *, stations: Mapping[str, str], keep: Keep, idle: float) -> None:
        self._address = address
        self._stations = stations
        self._keep = keep
        self._idle = idle
        self._refusals = Sparing()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._conversations: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None

    def bind(self) -> None:
        """Take the port. ConfigurationError if it cannot be had."""
        host, port = self._address
        try:
            self._server = self._loop.run_until_complete(start_hl7_server(self._accept, host, port, limit=_LARGEST))
        except OSError as exc:
            self._loop.close()
            raise ConfigurationError(f"hl7_port {port}: {exc.strerror}; set PACS_HL7_PORT to a free port") from exc

    def serve(self) -> None:
        """Answer until `stop`; what is at work then is finished."""
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    def stop(self) -> None:
        """From any thread. Idempotent."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self) -> None:
        assert self._server is not None, "bind first"
        await self._stopping.wait()
        self._server.close()
        if self._conversations:
            _, late = await asyncio.wait(self._conversations, timeout=_STOPPING)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _accept(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        peer = ":".join(str(part) for part in writer.get_extra_info("peername", ("?",))[:2])
        if len(self._conversations) >= _CONNECTIONS:
            if (unlogged := self._refusals.admit()) is not None:
                log.warning("hl7_connection_refused", peer=peer, unlogged_before=unlogged)
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            await self._converse(reader, writer, peer)
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _converse(self, reader: HL7StreamReader, writer: HL7StreamWriter, peer: str) -> None:
        try:
            while (content := await self._next(reader)) is not None:
                writer.writeblock(await asyncio.to_thread(self._answer, content, peer))
                await asyncio.wait_for(writer.drain(), self._idle)
        except TimeoutError:
            log.info("hl7_connection_ended", peer=peer, reason="it was silent for too long")
        except asyncio.IncompleteReadError:
            pass  # the peer has closed it
        except (InvalidBlockError, ValueError, OSError) as exc:
            log.warning("hl7_connection_ended", peer=peer, reason=type(exc).__name__)

    async def _next(self, reader: HL7StreamReader) -> bytes | None:
        """The next message; None if the server is to stop before one has begun."""
        reading = asyncio.ensure_future(asyncio.wait_for(reader.readblock(), self._idle))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if reading.done():
            return bytes(reading.result())
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return None

    def _answer(self, content: bytes, peer: str) -> bytes:
        """The acknowledgement of a message: AA when it is kept, AE when it says what cannot be kept, AR when it is none of ours."""
        message = None
        try:
            message = decode(content)
            concerned = self._keep(order_of(message, self._stations))
        except Unsupported as exc:
            return self._refused(message, "AR", exc, peer)
        except PacsError as exc:
            return self._refused(message, "AR" if message is None else "AE", exc, peer)
        except Exception:  # a process boundary: whatever goes wrong is answered, and ends this message only
            log.exception("hl7_message_failed", peer=peer)
            return acknowledgement(message, "AE", "an error of the archive; its log says more")
        log.info("hl7_message_kept", peer=peer, items=concerned)
        return acknowledgement(message, "AA", "")

    def _refused(self, message: hl7.Message | None, code: str, exc: PacsError, peer: str) -> bytes:
        log.warning("hl7_message_refused", peer=peer, code=code, reason=str(exc) if isinstance(exc, RequestError) else type(exc).__name__)
        return acknowledgement(message, code, str(exc))
