"""Query SCP: C-FIND (PS3.4 C.4.1)."""

from contextlib import closing

import structlog
from pydicom import Dataset

from pacs_core.archive.queries import Queries
from pacs_core.dimse import identifiers
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import AssociationEnded
from pacs_core.dimse.information_models import MODELS, Operation
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import (
    CANCEL,
    PENDING,
    PENDING_WITH_UNSUPPORTED_KEYS,
    SUCCESS,
    UNCOMPRESSED,
    UNRECOGNIZED_OPERATION,
    Service,
)
from pacs_core.errors import PacsError
from pacs_core.model import Permission, Query

log = structlog.get_logger(__name__)

# Positions in the extended negotiation information of a query SOP class (PS3.4 C.5.1.1).
_RELATIONAL, _COMBINED_DATETIME, _FUZZY_NAMES = 0, 1, 2


class QueryService(Service):
    """Answers C-FIND.

    Args:
        queries: answers queries from the index.
        ae_title: ours, which the answers name as Retrieve AE Title.
        fuzzy_names: whether requestors may negotiate fuzzy matching of names.
    """

    permission = Permission.QUERY

    def __init__(self, queries: Queries, *, ae_title: str, fuzzy_names: bool = False) -> None:
        self._queries = queries
        self._fuzzy_names = fuzzy_names
        self._extra = {"RetrieveAETitle": ae_title, "InstanceAvailability": "ONLINE"}

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """The query SOP classes, in every uncompressed transfer syntax."""
        model = MODELS.get(abstract_syntax)
        return UNCOMPRESSED if model and model.operation is Operation.FIND else frozenset()

    def extended(self, abstract_syntax: str, proposed: bytes) -> bytes | None:
        """The options of PS3.4 C.5.1.1."""
        return options_of(abstract_syntax, proposed, fuzzy_names=self._fuzzy_names)

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """One pending response for each match, then the final one."""
        if command.CommandField != CommandField.C_FIND:
            assoc.skip_data_set(context, command)
            assoc.send(context, command.response(UNRECOGNIZED_OPERATION))
            return
        try:
            status = self._find(assoc, context, command)
        except AssociationEnded:
            raise
        except PacsError as exc:
            log.warning("query_refused", association=assoc.id, reason=str(exc))
            assoc.send(context, command.response(exc.dimse_status, error_comment=str(exc)))
        else:
            assoc.send(context, command.response(status))

    def _find(self, assoc: Association, context: Context, command: Command) -> int:
        data = assoc.identifier(context) if command.has_data_set else b""
        identifier = identifiers.decode(data, context.transfer_syntax)
        query = query_of(assoc, context, identifier)
        pending = PENDING_WITH_UNSUPPORTED_KEYS if identifiers.unsupported(identifier) else PENDING
        matches = 0
        with closing(self._queries.find(query)) as found:  # type: ignore[type-var]  # an iterator that can be closed
            for header in found:
                if assoc.cancelled(command.MessageID or 0):
                    log.info("query_cancelled", association=assoc.id, matches=matches)
                    return CANCEL
                answer = identifiers.answer(identifier, query.level, header, self._extra)
                assoc.send(context, command.response(pending), identifiers.encode(answer, context.transfer_syntax))
                matches += 1
        log.info("query_answered", association=assoc.id, level=str(query.level), matches=matches)
        return SUCCESS


def query_of(assoc: Association, context: Context, identifier: Dataset) -> Query:
    """The query that an identifier states, with what was negotiated for its SOP class."""
    agreed = [position for position, value in enumerate(assoc.agreement.extended.get(context.abstract_syntax, b"")) if value == 1]
    levels = MODELS[context.served_as].levels
    return identifiers.query_of(identifier, levels, combined_datetime=_COMBINED_DATETIME in agreed, fuzzy_names=_FUZZY_NAMES in agreed)


def options_of(sop_class: str, proposed: bytes, *, fuzzy_names: bool = False) -> bytes | None:
    """Our answer to the extended negotiation of a query or retrieve SOP class (PS3.4 C.5.1.1).

    Relational queries and combined date-time matching are supported, and fuzzy names where that is set; time zone adjustment and
    the enhanced multi-frame conversion are not.
    """
    if sop_class not in MODELS:
        return None
    supported = (_RELATIONAL, _COMBINED_DATETIME, *([_FUZZY_NAMES] if fuzzy_names else []))
    return bytes(value & 1 if position in supported else 0 for position, value in enumerate(proposed))
