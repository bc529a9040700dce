"""Unified Procedure Step SCP: push, pull, watch and query (PS3.4 annex CC). Events go out by the courier."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

import structlog
from pydicom import Dataset

from pacs_core.dicom.headers import header_of
from pacs_core.dicom.matching import parse_criteria
from pacs_core.dimse import identifiers
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import SUCCESS, UNCOMPRESSED, Service, finding, normalized
from pacs_core.dimse.services.finding import Finding
from pacs_core.dimse.services.normalized import Operations, Perform, Reply, Request
from pacs_core.errors import PerformerUnreachable, UnknownAction, UnknownReceiver
from pacs_core.model import Header, Permission, new_uid, parse_uid
from pacs_core.ports import PeerDirectory
from pacs_core.ports.modality import Report
from pacs_core.ports.unified_step import Kept, Subscription, UnifiedStep, UnifiedSteps, Watcher
from pacs_core.workflow import unified_events as events
from pacs_core.workflow import unified_step as rules
from pacs_core.workflow.subscriptions import FILTERED, GLOBAL, Action, greeted, wish_of
from pacs_core.workflow.unified_items import exact_keys, kept, step_of
from pacs_core.workflow.unified_step import PULL, PUSH, QUERY, TRANSACTION, WATCH, Changed, Step

log = structlog.get_logger(__name__)

LARGEST = 1 << 20  # bytes of the data set of a request: a step is text, and is kept in PostgreSQL

# Tables CC.2-1 to CC.2-5: what a SOP class has.
OPERATIONS: Mapping[str, tuple[CommandField, ...]] = {
    PUSH: (CommandField.N_CREATE, CommandField.N_ACTION, CommandField.N_GET),
    WATCH: (CommandField.N_ACTION, CommandField.N_GET, CommandField.C_FIND),
    PULL: (CommandField.C_FIND, CommandField.N_GET, CommandField.N_SET, CommandField.N_ACTION),
    QUERY: (CommandField.C_FIND,),
}
ACTIONS: Mapping[str, tuple[Action, ...]] = {
    PUSH: (Action.REQUEST_CANCEL,),
    WATCH: (Action.SUBSCRIBE, Action.UNSUBSCRIBE, Action.SUSPEND, Action.REQUEST_CANCEL),
    PULL: (Action.CHANGE_STATE,),
}


class UnifiedStepService(Service):
    """Keeps what is to be done, for whoever takes it, and owes news of it to those who want them.

    Args:
        steps: where.
        peers: who may be subscribed: only a peer can be called.
        worklist: the Worklist Label of steps that come without one.
        told: called when there may be something to report.
    """

    permission = Permission.UPS

    def __init__(self, steps: UnifiedSteps, peers: PeerDirectory, *, worklist: str, told: Callable[[], None]) -> None:
        self._steps = steps
        self._peers = peers
        self._worklist = worklist
        self._told = told

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """Push, watch, pull and query, in every uncompressed transfer syntax."""
        return UNCOMPRESSED if abstract_syntax in OPERATIONS else frozenset()

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """Answer one request."""
        offered = OPERATIONS[context.served_as]
        if command.CommandField == CommandField.C_FIND and CommandField.C_FIND in offered:
            answered = finding.serve(assoc, context, command, self._look_up)
            log.info("steps_answered", association=assoc.id, status=f"{answered.status:04X}", matches=answered.matches)
            return
        performed: Mapping[CommandField, Perform] = {
            CommandField.N_CREATE: self._create,
            CommandField.N_SET: self._set,
            CommandField.N_GET: self._get,
            CommandField.N_ACTION: lambda request: self._act(context.served_as, request),
        }
        operations: Operations = {field: perform for field, perform in performed.items() if field in offered}
        normalized.serve(assoc, context, command, operations, read=partial(normalized.whole, limit=LARGEST))

    def _look_up(self, identifier: Dataset) -> Finding:
        if TRANSACTION in identifier:
            del identifier[TRANSACTION]  # nobody is told it, nor whether it is the one that he thinks
        keys = header_of(identifier)
        criteria = parse_criteria(keys)
        found = self._steps.headers(exact_keys(keys))
        selected = (header for header in found if all(criterion.satisfied_by(header) for criterion in criteria))
        return Finding(_answers(identifier, selected), whole=all(element.keyword for element in identifier))

    def _create(self, request: Request) -> Reply:
        uid = request.sop_instance or new_uid()
        parse_uid(uid, name="Affected SOP Instance UID")
        step = rules.created(uid, request.attributes, worklist=self._worklist, now=_now())
        entered = kept(step)

        def greet(watchers: Sequence[Watcher]) -> tuple[Mapping[str, Subscription], Sequence[Report]]:
            effects = greeted(entered.item.header, watchers)
            told = [receiver for receiver, effect in effects.items() if effect.is_told]
            return {each: effect.after for each, effect in effects.items()}, events.reports(uid, events.of_creation(step), told)

        self._steps.create(entered, request.calling_ae, greet)
        _note("unified_step_created", request, uid)
        return Reply(sop_instance=uid, then=self._told)

    def _set(self, request: Request) -> Reply:
        def change(found: Kept, receivers: Sequence[str]) -> tuple[UnifiedStep, Sequence[Report]]:
            before = step_of(found)
            after = rules.updated(before, request.attributes, _now())
            return kept(after), events.reports(request.sop_instance, events.of_update(before, after), receivers)

        self._steps.change(request.sop_instance, request.calling_ae, "N-SET", change)
        _note("unified_step_updated", request)
        return Reply(then=self._told)

    def _get(self, request: Request) -> Reply:
        step = step_of(self._steps.get(request.sop_instance))
        return Reply(attributes=normalized.chosen(step.ds, request.wanted))

    def _act(self, sop_class: str, request: Request) -> Reply:
        offered = {int(action): action for action in ACTIONS[sop_class]}
        action = offered.get(request.type_id)
        if action is None:
            raise UnknownAction(f"the SOP class has no action {request.type_id}")
        if action is Action.CHANGE_STATE:
            return self._move(request, "change state", rules.state_changed)
        if action is Action.REQUEST_CANCEL:
            return self._move(request, "request cancel", rules.cancel_requested)
        return self._subscribe(action, request)

    def _move(self, request: Request, operation: str, moved: Callable[[Step, Dataset, datetime], Changed]) -> Reply:
        status: int = SUCCESS

        def change(found: Kept, receivers: Sequence[str]) -> tuple[UnifiedStep | None, Sequence[Report]]:
            nonlocal status
            changed = moved(step_of(found), request.attributes, _now())
            if changed.warning is not None:
                status = changed.warning
                return None, ()
            return kept(changed.step), events.reports(request.sop_instance, _news(request, changed, receivers), receivers)

        self._steps.change(request.sop_instance, request.calling_ae, operation, change)
        _note("unified_step_changed", request, operation=operation, status=f"{status:04X}")
        return Reply(status, then=self._told)

    def _subscribe(self, action: Action, request: Request) -> Reply:
        wish = wish_of(action, request.sop_instance, request.attributes)
        if action is Action.SUBSCRIBE and self._peers.get(wish.receiver) is None:
            raise UnknownReceiver(f"{wish.receiver} is not a peer; `pacs peer add` enters it")

        def decide(found: Kept, before: Subscription) -> tuple[Subscription, Sequence[Report]]:
            step = step_of(found)
            effect = wish.effect(header_of(step.ds), before)
            return effect.after, events.reports(step.uid, [events.of_state(step)], [wish.receiver] if effect.is_told else ())

        if request.sop_instance in (GLOBAL, FILTERED):
            self._steps.subscribe_to_all(wish.receiver, wish.watcher, decide)
        else:
            self._steps.subscribe(request.sop_instance, wish.receiver, decide)
        _note("unified_step_subscription", request, receiver=wish.receiver, instruction=wish.instruction.value)
        return Reply(then=self._told)


def _news(request: Request, changed: Changed, receivers: Sequence[str]) -> Sequence[events.News]:
    """What a step went through; that its performer is asked to cancel it, where it went through nothing."""
    if changed.passed:
        return events.of_change(changed)
    if not receivers:
        raise PerformerUnreachable("nobody is subscribed to it who could be told")
    return [events.of_request(request.calling_ae, request.attributes)]


def _answers(identifier: Dataset, selected: Iterator[Header]) -> Iterator[Dataset]:
    for header in selected:
        yield identifiers.answer(identifier, header, {})


def _note(event: str, request: Request, uid: str = "", **more: str) -> None:
    log.info(event, association=request.association, calling=request.calling_ae, SOPInstanceUID=uid or request.sop_instance, **more)


def _now() -> datetime:
    return datetime.now()  # noqa: DTZ005 local time, as the Standard has it
