"""Unified procedure steps, in PostgreSQL: items of the worklist that are pushed, taken and watched.

A step's row is locked while it changes, so changes come one after the other; with it change its history, its subscriptions and the reports
that are owed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pacs_core.errors import DuplicateInstance, NoUnifiedStep
from pacs_core.index import event_reports
from pacs_core.index.postgres import Database, Row, Session
from pacs_core.index.worklist import ATTRIBUTES
from pacs_core.model import Header
from pacs_core.ports.modality import Report
from pacs_core.ports.unified_step import Change, Decide, Greet, Kept, Subscription, UnifiedStep, Watcher

_KEPT = '"TransactionUID", attributes'
_ATTRIBUTES = (*ATTRIBUTES, "ProcedureStepLabel", "ScheduledProcedureStepPriority")
_FIELDS = (*_ATTRIBUTES, "TransactionUID", "attributes", "scheduled_at", "header", "source", "state")
_COLUMNS = ", ".join(f'"{name}"' for name in _FIELDS)
_VALUES = ", ".join(f":{name}" for name in _FIELDS)
_TO_BE_TOLD = """
    SELECT DISTINCT ae_title FROM (
        SELECT ae_title, subscribed_at FROM pacs.unified_step_subscription
        UNION SELECT ae_title, subscribed_at FROM pacs.unified_step_watcher) subscribed
    WHERE subscribed_at < :before AND NOT EXISTS (
        SELECT 1 FROM pacs.event_report WHERE peer = ae_title AND "SOPInstanceUID" = :uid AND event_type = :event_type
        AND (state = 'due' OR created_at > now() - INTERVAL '1 minute'))
    ORDER BY ae_title
"""


class UnifiedSteps:
    """ports.unified_step.UnifiedSteps. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, step: UnifiedStep, calling_ae: str, greet: Greet) -> None:
        """See ports.unified_step.UnifiedSteps."""
        with self._database.transaction() as session:
            session.run("LOCK TABLE pacs.unified_step_watcher IN SHARE MODE")  # who begins to watch sees this step, or is seen by it
            made = session.run(
                f'INSERT INTO pacs.worklist_item ("SOPInstanceUID", {_COLUMNS}) VALUES (:uid, {_VALUES})'  # noqa: S608 constants
                ' ON CONFLICT ("SOPInstanceUID") DO NOTHING RETURNING 1',
                uid=step.SOPInstanceUID,
                **_parameters(step),
            )
            if not made:
                raise DuplicateInstance("there is a unified procedure step of this SOP instance UID")
            _record(session, step, "N-CREATE", calling_ae, None)
            subscriptions, reports = greet(_watchers(session))
            for receiver, subscription in subscriptions.items():
                _subscribe(session, step.SOPInstanceUID, receiver, subscription)
            _owe(session, reports)

    def change(self, uid: str, calling_ae: str, operation: str, change: Change) -> None:
        """See ports.unified_step.UnifiedSteps."""
        with self._database.transaction() as session:
            before, *kept = _one(session, f"state, {_KEPT}", uid, lock=True)
            step, reports = change(Kept(*kept), _receivers(session, uid))
            if step is not None:
                session.run(
                    f'UPDATE pacs.worklist_item SET ({_COLUMNS}, updated_at) = ({_VALUES}, now()) WHERE "SOPInstanceUID" = :uid',  # noqa: S608 constants
                    uid=uid,
                    **_parameters(step),
                )
                _record(session, step, operation, calling_ae, before)
            _owe(session, reports)

    def subscribe(self, uid: str, receiver: str, decide: Decide) -> None:
        """See ports.unified_step.UnifiedSteps."""
        with self._database.transaction() as session:
            kept = Kept(*_one(session, _KEPT, uid, lock=True))
            held = session.run(
                'SELECT deletion_lock FROM pacs.unified_step_subscription WHERE "SOPInstanceUID" = :uid AND ae_title = :receiver',
                uid=uid,
                receiver=receiver,
            )
            _decide(session, uid, receiver, kept, _subscription(held[0][0] if held else None), decide)

    def subscribe_to_all(self, receiver: str, watcher: Watcher | None, decide: Decide) -> None:
        """See ports.unified_step.UnifiedSteps."""
        with self._database.transaction() as session:
            _watch(session, receiver, watcher)  # before the steps are read: see `create`
            rows = session.run(
                f'SELECT w."SOPInstanceUID", {_KEPT}, s.deletion_lock FROM pacs.worklist_item w LEFT JOIN pacs.unified_step_subscription s'  # noqa: S608 constants
                ' ON s."SOPInstanceUID" = w."SOPInstanceUID" AND s.ae_title = :receiver'
                ' WHERE w."SOPInstanceUID" IS NOT NULL ORDER BY number FOR UPDATE OF w',
                receiver=receiver,
            )
            for uid, transaction, attributes, lock in rows:
                _decide(session, uid, receiver, Kept(transaction, attributes), _subscription(lock), decide)

    def announce(self, report: Report, before: datetime) -> None:
        """See ports.unified_step.UnifiedSteps."""
        with self._database.transaction() as session:
            session.run("LOCK TABLE pacs.unified_step_watcher IN SHARE ROW EXCLUSIVE MODE")  # one process after the other
            rows = session.run(_TO_BE_TOLD, uid=report.sop_instance, event_type=report.event_type, before=before)
            _owe(session, [replace(report, peer=ae_title) for (ae_title,) in rows])

    def get(self, uid: str) -> Kept:
        """See ports.unified_step.UnifiedSteps."""
        with self._database.transaction() as session:
            return Kept(*_one(session, _KEPT, uid, lock=False))

    def headers(self, keys: Mapping[str, str]) -> Sequence[Header]:
        """See ports.unified_step.UnifiedSteps."""
        conditions = "".join(f' AND "{keyword}" = :{keyword}' for keyword in keys)
        with self._database.transaction() as session:
            rows = session.run(
                f'SELECT header FROM pacs.worklist_item WHERE "SOPInstanceUID" IS NOT NULL{conditions} ORDER BY scheduled_at, number',  # noqa: S608 names of columns
                **keys,
            )
        return [header for (header,) in rows]


def _one(session: Session, columns: str, uid: str, *, lock: bool) -> Row:
    rows = session.run(
        f'SELECT {columns} FROM pacs.worklist_item WHERE "SOPInstanceUID" = :uid{" FOR UPDATE" if lock else ""}',  # noqa: S608 constants
        uid=uid,
    )
    if not rows:
        raise NoUnifiedStep("there is no unified procedure step of this SOP instance UID")
    return rows[0]


def _parameters(step: UnifiedStep) -> Mapping[str, object]:
    item = step.item
    return {
        **{keyword: item.attributes.get(keyword, "") for keyword in _ATTRIBUTES},
        "TransactionUID": step.TransactionUID,
        "attributes": json.dumps(step.attributes),
        "scheduled_at": item.scheduled_at,
        "header": json.dumps(item.header),
        "source": item.source,
        "state": item.state,
    }


def _record(session: Session, step: UnifiedStep, operation: str, calling_ae: str, before: object) -> None:
    session.run(
        'INSERT INTO pacs.unified_step_event ("SOPInstanceUID", operation, calling_ae, from_state, to_state)'
        " VALUES (:uid, :operation, :calling_ae, :before, :after)",
        uid=step.SOPInstanceUID,
        operation=operation,
        calling_ae=calling_ae,
        before=before,
        after=step.item.state,
    )


def _watch(session: Session, receiver: str, watcher: Watcher | None) -> None:
    if watcher is None:
        session.run("DELETE FROM pacs.unified_step_watcher WHERE ae_title = :receiver", receiver=receiver)
        return
    session.run(
        "INSERT INTO pacs.unified_step_watcher (ae_title, deletion_lock, keys) VALUES (:receiver, :lock, :keys)"
        " ON CONFLICT (ae_title) DO UPDATE SET (deletion_lock, keys, subscribed_at) = (excluded.deletion_lock, excluded.keys, now())",
        receiver=receiver,
        lock=watcher.subscription is Subscription.LOCKED,
        keys=json.dumps(watcher.keys),
    )


def _watchers(session: Session) -> Sequence[Watcher]:
    rows = session.run("SELECT ae_title, deletion_lock, keys FROM pacs.unified_step_watcher ORDER BY ae_title")
    return [Watcher(ae_title, _subscription(lock), keys) for ae_title, lock, keys in rows]


def _receivers(session: Session, uid: str) -> Sequence[str]:
    rows = session.run('SELECT ae_title FROM pacs.unified_step_subscription WHERE "SOPInstanceUID" = :uid ORDER BY ae_title', uid=uid)
    return [ae_title for (ae_title,) in rows]


def _decide(session: Session, uid: str, receiver: str, kept: Kept, before: Subscription, decide: Decide) -> None:
    after, reports = decide(kept, before)
    if after is not before:
        _subscribe(session, uid, receiver, after)
    _owe(session, reports)


def _subscribe(session: Session, uid: str, receiver: str, subscription: Subscription) -> None:
    if subscription is Subscription.NONE:
        session.run(
            'DELETE FROM pacs.unified_step_subscription WHERE "SOPInstanceUID" = :uid AND ae_title = :receiver', uid=uid, receiver=receiver
        )
        return
    session.run(
        'INSERT INTO pacs.unified_step_subscription ("SOPInstanceUID", ae_title, deletion_lock) VALUES (:uid, :receiver, :lock)'
        ' ON CONFLICT ("SOPInstanceUID", ae_title) DO UPDATE SET deletion_lock = excluded.deletion_lock',
        uid=uid,
        receiver=receiver,
        lock=subscription is Subscription.LOCKED,
    )


def _subscription(lock: bool | None) -> Subscription:
    return Subscription.NONE if lock is None else Subscription.LOCKED if lock else Subscription.UNLOCKED


def _owe(session: Session, reports: Sequence[Report]) -> None:
    for report in reports:
        event_reports.owe(session, report)
