"""Modality Worklist SCP: C-FIND (PS3.4 annex K)."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import structlog
from pydicom import Dataset

from pacs_core.dicom.headers import header_of
from pacs_core.dimse import identifiers
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import SUCCESS, UNCOMPRESSED, Service, finding
from pacs_core.dimse.services.finding import Finding
from pacs_core.model import Header, Permission
from pacs_core.ports.modality import WorklistItems
from pacs_core.workflow.worklist import criteria_of, exact_keys, period_of

log = structlog.get_logger(__name__)

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"


# Told of each query that was answered: when it came, who asked, the final status, the matches and the milliseconds that it took.
Asked = Callable[[datetime, str, int, int, float], None]


class WorklistService(Service):
    """Answers C-FIND of modalities.

    Args:
        items: what is scheduled.
        states: the states of items that are offered.
        asked: told of each query, after its answer; it returns at once.
        expected: told of the items that were answered; it returns at once.
    """

    permission = Permission.WORKLIST

    def __init__(
        self, items: WorklistItems, *, states: Sequence[str], asked: Asked, expected: Callable[[Sequence[Header]], None] = lambda _: None
    ) -> None:
        self._items = items
        self._states = states
        self._asked = asked
        self._expected = expected

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """The Modality Worklist information model, in every uncompressed transfer syntax."""
        return UNCOMPRESSED if abstract_syntax == MODALITY_WORKLIST else frozenset()

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """One pending response for each match, then the final one."""
        asked_at, started = datetime.now(UTC), time.perf_counter()
        told: list[Header] = []
        answered = finding.serve(assoc, context, command, lambda identifier: self._look_up(identifier, told))
        milliseconds = (time.perf_counter() - started) * 1000
        self._asked(asked_at, assoc.agreement.calling_ae, answered.status, answered.matches, milliseconds)
        self._expected(told)
        if answered.status == SUCCESS:
            log.info("worklist_answered", association=assoc.id, calling=assoc.agreement.calling_ae, matches=answered.matches)

    def _look_up(self, identifier: Dataset, told: list[Header]) -> Finding:
        keys = header_of(identifier)
        criteria = criteria_of(keys)
        first, last = period_of(criteria)
        candidates = self._items.headers(self._states, exact_keys(keys), first=first, last=last)
        selected = (item for item in candidates if all(criterion.satisfied_by(item) for criterion in criteria))
        return Finding(_answers(identifier, selected, told), whole=all(element.keyword for element in identifier))


def _answers(identifier: Dataset, selected: Iterator[Header], told: list[Header]) -> Iterator[Dataset]:
    for header in selected:
        told.append(header)
        yield identifiers.answer(identifier, header, {})
