"""What every C-FIND has in common (PS3.4 C.4.1, K.4.1): an identifier comes in, a response for each match and a final one go out."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import structlog
from pydicom import Dataset

from pacs_core.dimse import identifiers
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import AssociationEnded
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import CANCEL, PENDING, PENDING_WITH_UNSUPPORTED_KEYS, SUCCESS, UNRECOGNIZED_OPERATION, refuse
from pacs_core.errors import PacsError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """What answers an identifier.

    Attributes:
        matches: the answers, found as they are asked for; closing it ends the search.
        whole: whether every key of the identifier was understood.
    """

    matches: Iterator[Dataset]
    whole: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """How a C-FIND ended: its final status, and how many matches were sent."""

    status: int
    matches: int = 0


def serve(assoc: Association, context: Context, command: Command, look_up: Callable[[Dataset], Finding]) -> Answered:
    """Answer one request. PacsError becomes its status; everything else ends the association."""
    if command.CommandField != CommandField.C_FIND:
        refuse(assoc, context, command)
        return Answered(UNRECOGNIZED_OPERATION)
    try:
        answered = _answer(assoc, context, command, look_up)
    except AssociationEnded:
        raise
    except PacsError as exc:
        log.warning("query_refused", association=assoc.id, reason=str(exc))
        assoc.send(context, command.response(exc.dimse_status, error_comment=str(exc)))
        return Answered(exc.dimse_status)
    assoc.send(context, command.response(answered.status))
    return answered


def _answer(assoc: Association, context: Context, command: Command, look_up: Callable[[Dataset], Finding]) -> Answered:
    data = assoc.identifier(context) if command.has_data_set else b""
    finding = look_up(identifiers.decode(data, context.transfer_syntax))
    pending = PENDING if finding.whole else PENDING_WITH_UNSUPPORTED_KEYS
    sent = 0
    with closing(finding.matches) as matches:  # type: ignore[type-var]  # an iterator that can be closed
        for match in matches:
            if assoc.cancelled(command.MessageID or 0):
                log.info("query_cancelled", association=assoc.id, matches=sent)
                return Answered(CANCEL, sent)
            assoc.send(context, command.response(pending), identifiers.encode(match, context.transfer_syntax))
            sent += 1
    return Answered(SUCCESS, sent)
