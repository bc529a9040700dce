"""Query SCP: C-FIND (PS3.4 C.4.1)."""

from collections.abc import Iterator
from contextlib import closing

import structlog
from pydicom import Dataset

from pacs_core.archive.queries import Queries
from pacs_core.dimse import identifiers
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command
from pacs_core.dimse.information_models import MODELS, Operation
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import SUCCESS, UNCOMPRESSED, Service, finding
from pacs_core.dimse.services.finding import Finding
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
        answered = finding.serve(assoc, context, command, lambda identifier: self._look_up(assoc, context, identifier))
        if answered.status == SUCCESS:
            log.info("query_answered", association=assoc.id, matches=answered.matches)

    def _look_up(self, assoc: Association, context: Context, identifier: Dataset) -> Finding:
        query = query_of(assoc, context, identifier)
        return Finding(self._matches(identifier, query), whole=not identifiers.unsupported(identifier))

    def _matches(self, identifier: Dataset, query: Query) -> Iterator[Dataset]:
        with closing(self._queries.find(query)) as found:  # type: ignore[type-var]  # an iterator that can be closed
            for header in found:
                unique = {query.level.key: str(header.get(query.level.key, "")), "QueryRetrieveLevel": str(query.level)}
                yield identifiers.answer(identifier, header, {**unique, **self._extra})


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
