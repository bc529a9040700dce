"""Storage commitment, in PostgreSQL: ports.commitment.Commitments and Requests."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta

from pacs_core.errors import NotFound
from pacs_core.index import event_reports
from pacs_core.index.postgres import Database, Session
from pacs_core.ports.commitment import Entered, Reference, Request
from pacs_core.ports.modality import Report

_INSTANCES = """
    INSERT INTO pacs.commitment_instance (commitment, position, "SOPClassUID", "SOPInstanceUID")
    SELECT :number, ordinality - 1, item->>0, item->>1
    FROM json_array_elements(CAST(:references AS json)) WITH ORDINALITY AS r(item, ordinality)
"""
_CLAIM = """
    UPDATE pacs.commitment SET attempts = attempts + 1, next_attempt_at = now() + :lease WHERE number = (
        SELECT number FROM pacs.commitment WHERE role = 'scp' AND state = 'requested' AND next_attempt_at <= now()
        AND (CAST(:number AS bigint) IS NULL OR number = :number) ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING number, peer, "TransactionUID", is_repeated, instances, attempts, now() - requested_at
"""
_RESULTS = """
    UPDATE pacs.commitment_instance i SET
        result = CASE WHEN CAST(:failures AS json)->(i.{key}::text) IS NULL THEN 'committed' ELSE 'failed' END,
        failure_reason = CAST(:failures AS json)->>(i.{key}::text)
    WHERE commitment = :number
"""


class Commitments:
    """What peers have asked of us. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter(self, peer: str, transaction: str, references: Sequence[Reference]) -> Entered:
        """See ports.commitment.Commitments."""
        digest = _digest(references)
        with self._database.transaction() as session:
            known = session.run(
                "SELECT number, digest, report FROM pacs.commitment WHERE role = 'scp' AND peer = :peer"
                ' AND "TransactionUID" = :transaction AND NOT is_repeated FOR UPDATE',
                peer=peer,
                transaction=transaction,
            )
            if known and known[0][1] == digest:
                return _once_more(session, number=known[0][0], report=known[0][2])
            return Entered(_enter(session, "scp", peer, transaction, references, is_repeated=bool(known)), report=None)

    def claim(self, *, lease: timedelta, number: int | None = None) -> Request | None:
        """See ports.commitment.Commitments."""
        with self._database.transaction() as session:
            rows = session.run(_CLAIM, lease=lease, number=number)
        return Request(*rows[0]) if rows else None

    def renew(self, number: int, lease: timedelta) -> None:
        """See ports.commitment.Commitments."""
        with self._database.transaction() as session:
            session.run("UPDATE pacs.commitment SET next_attempt_at = now() + :lease WHERE number = :number", lease=lease, number=number)

    def references(self, number: int) -> Sequence[Reference]:
        """See ports.commitment.Commitments."""
        with self._database.transaction() as session:
            rows = session.run(
                'SELECT "SOPClassUID", "SOPInstanceUID" FROM pacs.commitment_instance WHERE commitment = :number ORDER BY position',
                number=number,
            )
        return [Reference(*row) for row in rows]

    def put_off(self, number: int, error: str, after: timedelta) -> None:
        """See ports.commitment.Commitments."""
        with self._database.transaction() as session:
            session.run(
                "UPDATE pacs.commitment SET last_error = :error, next_attempt_at = now() + :after WHERE number = :number",
                error=error[:500],
                after=after,
                number=number,
            )

    def finish(self, number: int, failures: Mapping[int, int], report: Report) -> int | None:
        """See ports.commitment.Commitments."""
        with self._database.transaction() as session:
            open_still = session.run(
                "UPDATE pacs.commitment SET state = 'answered', answered_at = now(), failed = :failed, last_error = ''"
                " WHERE number = :number AND state = 'requested' RETURNING 1",
                failed=len(failures),
                number=number,
            )
            if not open_still:
                return None
            _note_results(session, number, "position", {str(position): reason for position, reason in failures.items()})
            owed = event_reports.owe(session, report)
            session.run("UPDATE pacs.commitment SET report = :owed WHERE number = :number", owed=owed, number=number)
        return owed


class CommitmentRequests:
    """What we have asked of peers. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, peer: str, transaction: str, references: Sequence[Reference]) -> None:
        """See ports.commitment.Requests."""
        with self._database.transaction() as session:
            _enter(session, "scu", peer, transaction, references, is_repeated=False)

    def answered(self, transaction: str, failures: Mapping[str, int]) -> None:
        """See ports.commitment.Requests."""
        with self._database.transaction() as session:
            number = _asked(session, transaction)[0]
            session.run(
                "UPDATE pacs.commitment SET state = 'answered', answered_at = coalesce(answered_at, now()), failed = :failed"
                " WHERE number = :number",
                failed=len(failures),
                number=number,
            )
            _note_results(session, number, '"SOPInstanceUID"', failures)

    def outcome(self, transaction: str) -> Mapping[str, int] | None:
        """See ports.commitment.Requests."""
        with self._database.transaction() as session:
            number, state = _asked(session, transaction)
            if state != "answered":
                return None
            rows = session.run(
                "SELECT \"SOPInstanceUID\", failure_reason FROM pacs.commitment_instance WHERE commitment = :number AND result = 'failed'",
                number=number,
            )
        return {uid: int(reason, 16) for uid, reason in rows}


def _asked(session: Session, transaction: str) -> tuple[int, str]:
    rows = session.run(
        "SELECT number, state FROM pacs.commitment WHERE role = 'scu' AND \"TransactionUID\" = :transaction FOR UPDATE",
        transaction=transaction,
    )
    if not rows:
        raise NotFound("we have asked for no commitment of this Transaction UID")
    return int(rows[0][0]), str(rows[0][1])


def _enter(session: Session, role: str, peer: str, transaction: str, references: Sequence[Reference], *, is_repeated: bool) -> int:
    ((number,),) = session.run(
        'INSERT INTO pacs.commitment (role, peer, "TransactionUID", is_repeated, instances, digest)'
        " VALUES (:role, :peer, :transaction, :is_repeated, :instances, :digest) RETURNING number",
        role=role,
        peer=peer,
        transaction=transaction,
        is_repeated=is_repeated,
        instances=len(references),
        digest=_digest(references),
    )
    session.run(_INSTANCES, number=number, references=json.dumps(references))
    return int(number)


def _once_more(session: Session, number: int, report: int | None) -> Entered:
    """Owe what was reported, or have what was reported so long ago that it is forgotten checked anew."""
    if report is not None:
        event_reports.owe_again(session, report)
    else:
        session.run(
            "UPDATE pacs.commitment SET state = 'requested', requested_at = now(), attempts = 0, next_attempt_at = now()"
            " WHERE number = :number AND state = 'answered'",
            number=number,
        )
    return Entered(number, report)


def _note_results(session: Session, number: int, key: str, failures: Mapping[str, int]) -> None:
    reasons = {each: f"{reason:04X}" for each, reason in failures.items()}
    session.run(_RESULTS.format(key=key), number=number, failures=json.dumps(reasons))


def _digest(references: Sequence[Reference]) -> str:
    return hashlib.sha256(json.dumps(sorted(references)).encode()).hexdigest()
