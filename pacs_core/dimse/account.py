"""What an association did: one event in the log and one record when it has ended."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command
from pacs_core.dimse.negotiation import Context
from pacs_core.model import AssociationRecord
from pacs_core.telemetry.timing import Tally

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ServedAssociation(Association):
    """An association that remembers how the operation that it serves was answered."""

    _answered: int | None = field(default=None, init=False)

    def send(self, context: Context, command: Command, data: bytes | None = None) -> None:
        """As Association."""
        Association.send(self, context, command, data)
        if command.is_response:
            self._answered = command.Status

    def take_status(self) -> str:
        """The last status that was sent since the last call, as four hex digits; "none" where nothing was answered."""
        status, self._answered = self._answered, None
        return "none" if status is None else f"{status:04X}"


def record_of(assoc: Association, tally: Tally, *, ended: str, seconds: float) -> AssociationRecord:
    """What an association did that ends now and was open for so many seconds."""
    agreement, now = assoc.agreement, datetime.now(UTC)
    return AssociationRecord(
        id=assoc.id,
        calling_ae=agreement.calling_ae,
        called_ae=agreement.called_ae,
        address=assoc.peer_address,
        implementation=agreement.peer_implementation,
        user=agreement.user.name if agreement.user else "",
        user_type=agreement.user.type.name.lower() if agreement.user else "",
        opened_at=now - timedelta(seconds=seconds),
        closed_at=now,
        ended=ended,
        bytes=tally.size,
        operations={f"{operation} {status}": count for (operation, status), count in sorted(tally.counts().items())},
    )


def log_closed(assoc: Association, tally: Tally, *, reason: str, in_order: bool, seconds: float) -> None:
    """One event: how many operations of each kind ended in which status, the bytes of their data sets, and where time went."""
    keys: dict[str, float] = {f"{_key(operation)}_{status}": count for (operation, status), count in sorted(tally.counts().items())}
    keys |= {f"{_key(operation)}_{_key(phase)}_seconds": round(spent, 4) for (operation, phase), spent in sorted(tally.seconds().items())}
    (log.info if in_order else log.warning)(
        "association_closed",
        association=assoc.id,
        peer=assoc.peer_address,
        calling=assoc.agreement.calling_ae,
        reason=reason,
        seconds=round(seconds, 3),
        bytes=tally.size,
        **keys,
    )


def _key(name: str) -> str:
    return name.lower().replace("-", "_")
