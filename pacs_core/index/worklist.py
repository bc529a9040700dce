"""The worklist, in PostgreSQL.

Of its items, those with a SOPInstanceUID are unified procedure steps (index.unified_steps): listed here, and removed when they are over,
but neither offered to modalities nor changed by what modalities and orders say.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from pacs_core.errors import NotFound
from pacs_core.index.postgres import Database, Session
from pacs_core.model import Header
from pacs_core.ports.modality import Cancelled, Entry, WorklistQuery

# The columns that are attributes, as they are called in the table.
ATTRIBUTES = (
    "PatientID",
    "PatientName",
    "AccessionNumber",
    "StudyInstanceUID",
    "RequestedProcedureID",
    "ScheduledProcedureStepID",
    "ScheduledStationAETitle",
    "Modality",
)
_COLUMNS = ", ".join(f'"{keyword}"' for keyword in ATTRIBUTES)

# A unified procedure step stays until it is over, has been for a while, and nobody holds a lock on it (PS3.4 CC.2.1.3).
_EXPIRED = """
    ("SOPInstanceUID" IS NULL AND scheduled_at < :before OR "SOPInstanceUID" IS NOT NULL AND updated_at < :before
        AND state IN ('COMPLETED', 'CANCELLED') AND NOT EXISTS (
            SELECT 1 FROM pacs.unified_step_subscription s WHERE s."SOPInstanceUID" = worklist_item."SOPInstanceUID" AND deletion_lock))
"""

# What is ordered anew after it was cancelled is scheduled again; what a modality has begun stays begun.
_PUT = f"""
    INSERT INTO pacs.worklist_item AS w ({_COLUMNS}, scheduled_at, header, source)
    VALUES ({", ".join(f":{keyword}" for keyword in ATTRIBUTES)}, :scheduled_at, :header, :source)
    ON CONFLICT ("StudyInstanceUID", "ScheduledProcedureStepID") WHERE "SOPInstanceUID" IS NULL DO UPDATE SET
        {", ".join(f'"{keyword}" = excluded."{keyword}"' for keyword in ATTRIBUTES)},
        scheduled_at = excluded.scheduled_at, header = excluded.header, source = excluded.source, updated_at = now(),
        state = CASE w.state WHEN 'CANCELLED' THEN 'SCHEDULED' ELSE w.state END
    RETURNING xmax = 0
"""  # noqa: S608 constants

_QUERIED = """
    INSERT INTO pacs.worklist_query (asked_at, calling_ae, status, matches, milliseconds)
    SELECT asked_at, calling_ae, status, matches, milliseconds FROM json_to_recordset(CAST(:queries AS json)) AS r(
        asked_at timestamptz, calling_ae text, status text, matches integer, milliseconds double precision)
"""


class Worklist:
    """ports.modality.WorklistItems, and what the command line and flows do with them. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, entries: Sequence[Entry]) -> int:
        """Enter steps, or change those that are there, all or none; how many are new."""
        with self._database.transaction() as session:
            return sum(_put(session, entry) for entry in entries)

    def order(self, entries: Sequence[Entry], cancelled: Sequence[Cancelled]) -> int:
        """Enter or change steps and cancel others, all or nothing; how many items that concerned.

        NotFound for what is not there to cancel.
        """
        with self._database.transaction() as session:
            for entry in entries:
                _put(session, entry)
            return len(entries) + sum(_cancel(session, each) for each in cancelled)

    def headers(
        self, states: Sequence[str], keys: Mapping[str, str], *, first: datetime | None = None, last: datetime | None = None
    ) -> Sequence[Header]:
        """See ports.modality.WorklistItems."""
        conditions = "".join(f' AND "{keyword}" = :{keyword}' for keyword in keys)
        with self._database.transaction() as session:
            rows = session.run(
                f"SELECT header FROM pacs.worklist_item WHERE state = ANY(CAST(:states AS text[])){conditions}"  # noqa: S608 names of columns
                ' AND "SOPInstanceUID" IS NULL'
                " AND scheduled_at >= coalesce(CAST(:first AS timestamp), '-infinity')"
                " AND scheduled_at <= coalesce(CAST(:last AS timestamp), 'infinity')"
                " ORDER BY scheduled_at, number",
                states=list(states),
                first=first,
                last=last,
                **keys,
            )
        return [header for (header,) in rows]

    def entries(self, *, everything: bool) -> Sequence[Entry]:
        """All that is still to be done, or all that is kept, in the order in which it is scheduled."""
        return self._entries(":everything OR state IN ('SCHEDULED', 'IN PROGRESS')", everything=everything)

    def remove(self, accession_or_study: str) -> int:
        """Forget the items of an accession number or a study, but no unified procedure steps; how many."""
        with self._database.transaction() as session:
            rows = session.run(
                'DELETE FROM pacs.worklist_item WHERE ("AccessionNumber" = :key OR "StudyInstanceUID" = :key)'
                ' AND "SOPInstanceUID" IS NULL RETURNING 1',
                key=accession_or_study,
            )
        return len(rows)

    def expired(self, before: datetime) -> Sequence[Entry]:
        """The items that were to begin before an instant of local time, in whatever state; unified procedure steps that were over by then.

        These stay while somebody holds a deletion lock on them.
        """
        return self._entries(_EXPIRED, before=before)

    def forget(self, before: datetime) -> int:
        """Remove the expired ones, and the record of queries that are as old; how many items."""
        with self._database.transaction() as session:
            session.run("DELETE FROM pacs.worklist_query WHERE asked_at < :before", before=before)
            # Whoever is about to lock one does so first, and is seen below; nobody does in between.
            session.run(f"SELECT 1 FROM pacs.worklist_item WHERE {_EXPIRED} ORDER BY number FOR UPDATE", before=before)  # noqa: S608 constants
            return len(session.run(f"DELETE FROM pacs.worklist_item WHERE {_EXPIRED} RETURNING 1", before=before))  # noqa: S608 constants

    def record(self, queries: Sequence[WorklistQuery]) -> None:
        """Write queries down."""
        rows = json.dumps([asdict(query) for query in queries], default=datetime.isoformat)
        with self._database.transaction() as session:
            session.run(_QUERIED, queries=rows)

    def _entries(self, condition: str, **values: object) -> Sequence[Entry]:
        with self._database.transaction() as session:
            rows = session.run(
                f"SELECT {_COLUMNS}, scheduled_at, header, source, state, updated_at FROM pacs.worklist_item"  # noqa: S608 constants
                f" WHERE {condition} ORDER BY scheduled_at, number",
                **values,
            )
        count = len(ATTRIBUTES)
        return [Entry(dict(zip(ATTRIBUTES, row[:count], strict=True)), *row[count:]) for row in rows]


def follow(session: Session, study: str, step_id: str, state: str) -> int:
    """A scheduled procedure step has come so far, in the transaction of what says so; how many items that concerned."""
    rows = session.run(
        "UPDATE pacs.worklist_item SET state = :state, updated_at = now()"
        ' WHERE "StudyInstanceUID" = :study AND "ScheduledProcedureStepID" = :step_id AND "SOPInstanceUID" IS NULL RETURNING 1',
        study=study,
        step_id=step_id,
        state=state,
    )
    return len(rows)


def _cancel(session: Session, cancelled: Cancelled) -> int:
    """Steps that have not begun; those that have stay as they are."""
    rows = session.run(
        "UPDATE pacs.worklist_item SET updated_at = now(), state = CASE state WHEN 'SCHEDULED' THEN 'CANCELLED' ELSE state END"
        ' WHERE CASE WHEN :study = \'\' THEN "AccessionNumber" = :accession ELSE "StudyInstanceUID" = :study END'
        ' AND (:step_id = \'\' OR "ScheduledProcedureStepID" = :step_id) AND "SOPInstanceUID" IS NULL RETURNING 1',
        study=cancelled.study,
        accession=cancelled.accession,
        step_id=cancelled.step_id,
    )
    if not rows:
        raise NotFound("there is nothing on the worklist to cancel for this order")
    return len(rows)


def _put(session: Session, entry: Entry) -> bool:
    ((is_new,),) = session.run(
        _PUT, scheduled_at=entry.scheduled_at, header=json.dumps(entry.header), source=entry.source, **entry.attributes
    )
    return bool(is_new)
