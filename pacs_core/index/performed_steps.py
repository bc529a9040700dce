"""Performed procedure steps, in PostgreSQL. A step, its series, the worklist and the reports it causes change in one transaction."""

import json
from collections.abc import Callable, Sequence

from pacs_core.errors import DuplicateInstance, NotFound
from pacs_core.index import event_reports, worklist
from pacs_core.index.postgres import Database, Session
from pacs_core.ports.modality import Attributes, PerformedSeries, PerformedStep, Report, RequestedStep


class PerformedSteps:
    """ports.modality.PerformedSteps. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, uid: str, calling_ae: str, step: PerformedStep, reports: Sequence[Report]) -> None:
        """Enter a step, and what is to be reported of it. DuplicateInstance if there is one of that UID."""
        with self._database.transaction() as session:
            made = session.run(
                f'INSERT INTO pacs.performed_step ("SOPInstanceUID", {_COLUMNS}, calling_ae) VALUES (:uid, {_VALUES}, :calling_ae)'  # noqa: S608 constants
                " ON CONFLICT DO NOTHING RETURNING 1",
                uid=uid,
                calling_ae=calling_ae,
                **_parameters(step),
            )
            if not made:
                raise DuplicateInstance("there is a performed procedure step of this SOP instance UID")
            _record(session, uid, calling_ae, None, step, reports)

    def change(self, uid: str, calling_ae: str, change: Callable[[Attributes], tuple[PerformedStep, Sequence[Report]]]) -> None:
        """Change a step, one change after the other. NotFound; what `change` raises leaves everything as it is."""
        with self._database.transaction() as session:
            found = session.run('SELECT state, attributes FROM pacs.performed_step WHERE "SOPInstanceUID" = :uid FOR UPDATE', uid=uid)
            if not found:
                raise NotFound("there is no performed procedure step of this SOP instance UID")
            before, attributes = found[0]
            step, reports = change(attributes)
            session.run(
                f'UPDATE pacs.performed_step SET ({_COLUMNS}, updated_at) = ({_VALUES}, now()) WHERE "SOPInstanceUID" = :uid',  # noqa: S608 constants
                uid=uid,
                **_parameters(step),
            )
            for table in ("performed_step_request", "performed_series"):
                session.run(f'DELETE FROM pacs.{table} WHERE "SOPInstanceUID" = :uid', uid=uid)  # noqa: S608 constants
            _record(session, uid, calling_ae, before, step, reports)

    def get(self, uid: str) -> Attributes:
        """The attributes of a step. NotFound."""
        with self._database.transaction() as session:
            found = session.run('SELECT attributes FROM pacs.performed_step WHERE "SOPInstanceUID" = :uid', uid=uid)
        if not found:
            raise NotFound("there is no performed procedure step of this SOP instance UID")
        attributes: Attributes = found[0][0]
        return attributes


def _record(session: Session, uid: str, calling_ae: str, before: str | None, step: PerformedStep, reports: Sequence[Report]) -> None:
    """What comes with a step: its parts, that it happened, the worklist, the reports. `before`: its state until now, None if it is new."""
    _insert(session, "performed_step_request", uid, RequestedStep._fields, step.requested)
    _insert(session, "performed_series", uid, PerformedSeries._fields, step.series)
    session.run(
        'INSERT INTO pacs.performed_step_event ("SOPInstanceUID", operation, calling_ae, from_state, to_state)'
        " VALUES (:uid, :operation, :calling_ae, :before, :after)",
        uid=uid,
        operation="N-SET" if before else "N-CREATE",
        calling_ae=calling_ae,
        before=before,
        after=step.state,
    )
    for each in sorted(step.requested):  # one order: no deadlocks
        if each.ScheduledProcedureStepID:
            worklist.follow(session, each.StudyInstanceUID, each.ScheduledProcedureStepID, step.state)
    for report in reports:
        event_reports.owe(session, report)


_FIELDS = ("state", "PerformedProcedureStepID", "PerformedStationAETitle", "Modality", "PatientID", "started_at", "ended_at", "attributes")
_COLUMNS = ", ".join(f'"{name}"' for name in _FIELDS)
_VALUES = ", ".join(f":{name}" for name in _FIELDS)


def _parameters(step: PerformedStep) -> dict[str, object]:
    return {name: getattr(step, name) for name in _FIELDS} | {"attributes": json.dumps(step.attributes)}


def _insert(session: Session, table: str, uid: str, fields: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
    columns = ", ".join(f'"{name}"' for name in fields)
    values = ", ".join(f":{name}" for name in fields)
    for row in rows:
        session.run(
            f'INSERT INTO pacs.{table} ("SOPInstanceUID", {columns}) VALUES (:uid, {values})',  # noqa: S608 constants
            uid=uid,
            **dict(zip(fields, row, strict=True)),
        )
