"""Event reports that are owed to peers, in PostgreSQL: entered with what caused them, taken up until they are delivered."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from pacs_core.index import locks
from pacs_core.index.postgres import Database, Session
from pacs_core.ports.modality import Claimed, Report

# A line of reports to a peer belongs to one claimant at a time: what happened first is told first.
_CLAIM = """
    UPDATE pacs.event_report SET attempts = attempts + 1, next_attempt_at = now() + :lease, leased_until = now() + :lease WHERE number IN (
        SELECT number FROM pacs.event_report AS due WHERE state = 'due'
        AND CASE WHEN CAST(:number AS bigint) IS NULL THEN next_attempt_at <= now() AND NOT EXISTS (
            SELECT 1 FROM pacs.event_report AS other WHERE other.state = 'due' AND other.leased_until > now()
            AND other.peer = due.peer AND other.context_class = due.context_class) ELSE number = :number END
        ORDER BY next_attempt_at, number LIMIT :limit FOR UPDATE)
    RETURNING number, peer, "SOPClassUID", context_class, "SOPInstanceUID", event_type, attributes, attempts, now() - created_at
"""


class EventReports:
    """ports.modality.EventReports. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, *, limit: int, lease: timedelta, number: int | None = None) -> Sequence[Claimed]:
        """See ports.modality.EventReports."""
        with self._database.transaction() as session:
            session.run("SELECT pg_advisory_xact_lock(:lock)", lock=locks.REPORTS)
            rows = session.run(_CLAIM, limit=limit, lease=lease, number=number)
        return [Claimed(row[0], Report(*row[1:7]), row[7], row[8]) for row in rows]

    def hold(self, peer: str, context_class: str, duration: timedelta) -> None:
        """See ports.modality.EventReports."""
        with self._database.transaction() as session:
            session.run("SELECT pg_advisory_xact_lock(:lock)", lock=locks.REPORTS)
            session.run(
                "UPDATE pacs.event_report SET next_attempt_at = now() + :duration, leased_until = now() + :duration"
                " WHERE state = 'due' AND peer = :peer AND context_class = :context_class",
                peer=peer,
                context_class=context_class,
                duration=duration,
            )

    def forget(self, before: datetime) -> int:
        """Remove what was delivered, or given up, and was entered before an instant; how many. Repeatable."""
        with self._database.transaction() as session:
            return len(
                session.run("DELETE FROM pacs.event_report WHERE state <> 'due' AND created_at < :before RETURNING 1", before=before)
            )

    def delivered(self, number: int) -> None:
        """See ports.modality.EventReports."""
        with self._database.transaction() as session:
            session.run(
                "UPDATE pacs.event_report SET state = CASE WHEN attempts = 0 THEN state ELSE 'delivered' END, delivered_at = now(),"
                " last_error = '', leased_until = NULL WHERE number = :number",
                number=number,
            )

    def failed(self, number: int, error: str, again_after: timedelta | None) -> None:
        """See ports.modality.EventReports."""
        with self._database.transaction() as session:
            session.run(
                "UPDATE pacs.event_report SET last_error = :error, next_attempt_at = now() + coalesce(:after, interval '0'),"
                " leased_until = NULL, state = CASE WHEN :after IS NULL AND attempts > 0 THEN 'given up' ELSE state END"
                " WHERE number = :number AND state = 'due'",
                error=error[:500],
                after=again_after,
                number=number,
            )


def owe(session: Session, report: Report) -> int:
    """Enter a report, in the transaction of what it reports; its number."""
    ((number,),) = session.run(
        'INSERT INTO pacs.event_report (peer, "SOPClassUID", context_class, "SOPInstanceUID", event_type, attributes)'
        " VALUES (:peer, :sop_class, :context_class, :sop_instance, :event_type, :attributes) RETURNING number",
        peer=report.peer,
        sop_class=report.sop_class,
        context_class=report.context_class,
        sop_instance=report.sop_instance,
        event_type=report.event_type,
        attributes=json.dumps(report.attributes),
    )
    return int(number)


def owe_again(session: Session, number: int) -> None:
    """Owe a report anew that was entered before: its peer has not understood that it was told, or was not told yet.

    With no attempt behind it: one that is on its way to the peer just now is told once more all the same, since the peer may ask after
    it has taken the report, and before that is noted.
    """
    session.run("UPDATE pacs.event_report SET state = 'due', attempts = 0, next_attempt_at = now() WHERE number = :number", number=number)
