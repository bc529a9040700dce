"""Modality Performed Procedure Step SCP: N-CREATE, N-SET and N-GET (PS3.4 annex F)."""

from collections.abc import Callable, Sequence

import structlog

from pacs_core.dicom.json_model import from_json
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import UNCOMPRESSED, Service, normalized
from pacs_core.dimse.services.normalized import Reply, Request
from pacs_core.model import Permission, new_uid, parse_uid
from pacs_core.ports.modality import Attributes, PerformedStep, PerformedSteps, Report
from pacs_core.workflow.performed_step import StepStatus, changed, check_creation, status_of, step_of

log = structlog.get_logger(__name__)

MPPS, MPPS_RETRIEVE, MPPS_NOTIFICATION = (f"1.2.840.10008.3.1.2.3.{number}" for number in (3, 4, 5))

# PS3.4 table F.9-1.
_EVENT_TYPES = {StepStatus.IN_PROGRESS: 1, StepStatus.COMPLETED: 2, StepStatus.DISCONTINUED: 3}


class PerformedStepService(Service):
    """Keeps what modalities tell of their steps.

    Args:
        steps: where.
        notified: the AE titles of peers that are told when a step changes its status.
        told: called when there may be something to report.
    """

    permission = Permission.MPPS

    def __init__(self, steps: PerformedSteps, *, notified: Sequence[str] = (), told: Callable[[], None] = lambda: None) -> None:
        self._steps = steps
        self._notified = notified
        self._told = told

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """MPPS and its retrieve class, in every uncompressed transfer syntax."""
        return UNCOMPRESSED if abstract_syntax in (MPPS, MPPS_RETRIEVE) else frozenset()

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """Answer one request."""
        if context.served_as == MPPS:
            normalized.serve(assoc, context, command, {CommandField.N_CREATE: self._create, CommandField.N_SET: self._set})
        else:
            normalized.serve(assoc, context, command, {CommandField.N_GET: self._get})

    def _create(self, request: Request) -> Reply:
        uid = request.sop_instance or new_uid()
        parse_uid(uid, name="Affected SOP Instance UID")
        check_creation(request.attributes)
        step = step_of(request.attributes)
        self._steps.create(uid, request.calling_ae, step, self._news(uid, step))
        log.info("step_begun", association=request.association, calling=request.calling_ae, SOPInstanceUID=uid)
        return Reply(sop_instance=uid, then=self._told)

    def _set(self, request: Request) -> Reply:
        def change(current: Attributes) -> tuple[PerformedStep, Sequence[Report]]:
            before = from_json(current)
            step = step_of(changed(before, request.attributes))
            return step, self._news(request.sop_instance, step) if step.state != status_of(before) else ()

        self._steps.change(request.sop_instance, request.calling_ae, change)
        log.info("step_changed", association=request.association, calling=request.calling_ae, SOPInstanceUID=request.sop_instance)
        return Reply(then=self._told)

    def _get(self, request: Request) -> Reply:
        ds = from_json(self._steps.get(request.sop_instance))
        return Reply(attributes=normalized.chosen(ds, request.wanted))

    def _news(self, uid: str, step: PerformedStep) -> Sequence[Report]:
        """That a step has a new status; the event says all, there is no information with it (PS3.4 table F.9-1)."""
        event = _EVENT_TYPES[StepStatus(step.state)]
        return [Report(peer, MPPS_NOTIFICATION, MPPS_NOTIFICATION, uid, event, {}) for peer in self._notified]
