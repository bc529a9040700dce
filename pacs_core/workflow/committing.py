"""Checks what peers ask us to commit to, behind the answer to their request, and owes them the result."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import structlog

from pacs_core.archive.safekeeping import DAMAGED, GOOD, MISSING, OTHER_CLASS, Safekeeping
from pacs_core.errors import PacsError
from pacs_core.ports.commitment import Commitments, Reference, Request
from pacs_core.workflow.commitment import FailureReason, report_of
from pacs_core.workflow.retries import Retries
from pacs_core.workflow.worker import Worker

log = structlog.get_logger(__name__)

_LEASE = timedelta(seconds=30)  # after which another process takes up what this one was at
_RENEWED = 5.0  # seconds

_REASONS: Mapping[str, FailureReason] = {
    MISSING: FailureReason.NO_SUCH_OBJECT_INSTANCE,
    OTHER_CLASS: FailureReason.CLASS_INSTANCE_CONFLICT,
    DAMAGED: FailureReason.PROCESSING_FAILURE,
}


def reason_for(found: str, *, is_supported: bool) -> FailureReason | None:
    """Why there is no commitment, given what is found of an instance; None if there is one."""
    if found == GOOD:
        return None
    if found == MISSING and not is_supported:
        return FailureReason.SOP_CLASS_NOT_SUPPORTED
    return _REASONS[found]


class CommitmentChecker(Worker):
    """A thread that checks one request after the other. Several processes may each have one.

    Args:
        commitments: what peers have asked for.
        safekeeping: looks at the objects.
        settle: returns when everything that was acknowledged is in the index; UnavailableError if that takes too long.
        supports: whether instances of a SOP class are stored here at all.
        retries: when a request is tried again that could not be checked; given up, its instances fail (0213).
        retrieve_ae: our AE title.
        owed: called when there is something to report.
    """

    def __init__(
        self,
        commitments: Commitments,
        safekeeping: Safekeeping,
        *,
        settle: Callable[[], None],
        supports: Callable[[str], bool],
        retries: Retries,
        retrieve_ae: str,
        owed: Callable[[], None],
    ) -> None:
        self._commitments = commitments
        self._safekeeping = safekeeping
        self._settle = settle
        self._supports = supports
        self._retries = retries
        self._retrieve_ae = retrieve_ae
        self._owed = owed
        super().__init__(self._check_due, name="commitments")

    def check(self, number: int | None = None) -> int | None:
        """Check a request that is due, or just this one. The number of the report that is owed for it; None if there is nothing to do."""
        request = self._commitments.claim(lease=_LEASE, number=number)
        if request is None:
            return None
        try:
            return self._check(request)
        except PacsError as exc:
            return self._put_off(request, exc)

    def _check_due(self) -> bool:
        if self.check() is None:
            return False
        self._owed()
        return True

    def _check(self, request: Request) -> int | None:
        references = self._commitments.references(request.number)
        if request.is_repeated:
            failures = dict.fromkeys(range(len(references)), int(FailureReason.DUPLICATE_TRANSACTION_UID))
        else:
            self._settle()
            failures = self._failures(request, references)
        return self._finish(request, references, failures)

    def _failures(self, request: Request, references: Sequence[Reference]) -> dict[int, int]:
        failures: dict[int, int] = {}
        renewed = time.monotonic()
        for position, found in enumerate(self._safekeeping.look(references)):
            if time.monotonic() - renewed > _RENEWED:
                self._commitments.renew(request.number, _LEASE)
                renewed = time.monotonic()
            reason = reason_for(found, is_supported=self._supports(references[position].SOPClassUID))
            if reason is not None:
                failures[position] = int(reason)
        return failures

    def _put_off(self, request: Request, exc: PacsError) -> int | None:
        after = self._retries.after(request.attempts, request.age)
        log.warning("commitment_not_checked", peer=request.peer, TransactionUID=request.TransactionUID, reason=str(exc))
        if after is not None:
            self._commitments.put_off(request.number, str(exc), after)
            return None
        references = self._commitments.references(request.number)
        return self._finish(request, references, dict.fromkeys(range(len(references)), int(FailureReason.RESOURCE_LIMITATION)))

    def _finish(self, request: Request, references: Sequence[Reference], failures: Mapping[int, int]) -> int | None:
        report = report_of(request.peer, request.TransactionUID, references, failures, retrieve_ae=self._retrieve_ae)
        owed = self._commitments.finish(request.number, failures, report)
        log.info(
            "commitment_checked",
            peer=request.peer,
            TransactionUID=request.TransactionUID,
            instances=len(references),
            failed=len(failures),
        )
        return owed
