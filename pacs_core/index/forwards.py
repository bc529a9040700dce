"""What is to be sent on to peers by which rule, and what came of it, in PostgreSQL; and what has arrived, from the lake."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from pacs_core.index import locks
from pacs_core.index.lake import literal
from pacs_core.index.postgres import CatalogURL, Database
from pacs_core.index.sql import InvalidSQL, SQLSession
from pacs_core.model import UID

# `received_at` is when an instance began to arrive, and it is seen when it is indexed. What took longer than this is not sent on.
_OVERLAP = timedelta(hours=1)
_ENTERED_AT_ONCE = 5000

_BEGIN = """
    INSERT INTO pacs.forward_rule (rule, began_at, watermark) VALUES (:rule, :now, :now) ON CONFLICT (rule) DO NOTHING
"""
_RULE = """
    SELECT began_at, watermark, failures, coalesce(delayed_until > clock_timestamp(), false), reason
    FROM pacs.forward_rule WHERE rule = :rule
"""
_ARRIVED = """
    SELECT instance.SOPInstanceUID, instance.StudyInstanceUID
    FROM instance
    JOIN series ON series.StudyInstanceUID = instance.StudyInstanceUID AND series.SeriesInstanceUID = instance.SeriesInstanceUID
    JOIN study ON study.StudyInstanceUID = instance.StudyInstanceUID
    JOIN patient ON patient.PatientID = study.PatientID AND patient.IssuerOfPatientID = study.IssuerOfPatientID
    WHERE instance.received_at >= {since} AND instance.SOPInstanceUID NOT IN (
        SELECT "SOPInstanceUID" FROM ops.pacs.forward WHERE rule = {rule} AND entered_at >= {since}
    ){conditions}
"""
_ENTER = """
    INSERT INTO pacs.forward (rule, "SOPInstanceUID", "StudyInstanceUID")
    SELECT :rule, "SOPInstanceUID", "StudyInstanceUID"
    FROM json_to_recordset(CAST(:rows AS json)) AS given("SOPInstanceUID" text, "StudyInstanceUID" text)
    ON CONFLICT DO NOTHING RETURNING 1
"""
_GIVE_UP = """
    UPDATE pacs.forward SET state = 'failed', settled_at = clock_timestamp()
    WHERE rule = :rule AND state = 'pending' AND attempts > 0 AND entered_at < :before RETURNING 1
"""
_DUE = """
    SELECT "StudyInstanceUID", "SOPInstanceUID", attempts FROM pacs.forward
    WHERE rule = :rule AND state = 'pending' AND next_attempt_at <= clock_timestamp()
    ORDER BY attempts, entered_at, "StudyInstanceUID", "SOPInstanceUID" LIMIT :limit
"""
_NOTE = """
    UPDATE pacs.forward SET state = :state, attempts = attempts + 1, last_status = :status, reason = :reason,
        next_attempt_at = clock_timestamp() + make_interval(secs => CAST(:delay AS float8)),
        settled_at = CASE WHEN :state = 'pending' THEN NULL ELSE clock_timestamp() END
    WHERE rule = :rule AND "SOPInstanceUID" = :instance AND state = 'pending'
"""
_DELAY = """
    UPDATE pacs.forward_rule SET failures = failures + 1, reason = :reason,
        delayed_until = clock_timestamp() + make_interval(secs => CAST(:delay AS float8))
    WHERE rule = :rule
"""


@dataclass(frozen=True, slots=True)
class RuleState:
    """How far a rule has come.

    Attributes:
        began_at: what arrived before is not its business.
        watermark: what arrived before has been looked at.
        failures: attempts in a row at which its peer was away.
        is_delayed: whether the peer is left alone for now, for the reason of the last failure.
    """

    began_at: datetime
    watermark: datetime
    failures: int
    is_delayed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class DueInstance:
    """An instance that is to be sent now, after so many attempts that failed."""

    StudyInstanceUID: UID
    SOPInstanceUID: UID
    attempts: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """An instance that a rule names."""

    SOPInstanceUID: UID
    StudyInstanceUID: UID


class Forwards:
    """What is to be sent on. Thread-safe. To be closed."""

    def __init__(self, catalog_url: str) -> None:
        self._url = CatalogURL.parse(catalog_url)
        self._database = Database(catalog_url)

    @contextmanager
    def locked(self, rule: str) -> Iterator[bool]:
        """Be the only one who works on a rule; whether that is so. The lock dies with the process."""
        with locks.locking(self._url, application_name="pacs-forward") as session:
            ((mine,),) = session.run("SELECT pg_try_advisory_lock(CAST(:space AS integer), hashtext(:rule))", space=locks.RULES, rule=rule)
            yield bool(mine)

    def begin(self, rule: str, now: datetime) -> RuleState:
        """How far the rule has come. One that is new begins now."""
        with self._database.transaction() as session:
            session.run(_BEGIN, rule=rule, now=now)
            return RuleState(*session.run(_RULE, rule=rule)[0])

    def state(self, rule: str) -> RuleState | None:
        """How far the rule has come; None if it has not begun."""
        with self._database.transaction() as session:
            rows = session.run(_RULE, rule=rule)
        return RuleState(*rows[0]) if rows else None

    def enter(self, rule: str, arrivals: Sequence[Arrival], watermark: datetime) -> int:
        """What has arrived is to be sent, each instance once; how many are new. From now on the rule is looked at from the watermark on."""
        entered = 0
        with self._database.transaction() as session:
            for at in range(0, len(arrivals), _ENTERED_AT_ONCE):
                part = [
                    {"SOPInstanceUID": each.SOPInstanceUID, "StudyInstanceUID": each.StudyInstanceUID}
                    for each in arrivals[at:][:_ENTERED_AT_ONCE]
                ]
                entered += len(session.run(_ENTER, rule=rule, rows=json.dumps(part)))
            session.run(
                "UPDATE pacs.forward_rule SET watermark = greatest(watermark, :watermark) WHERE rule = :rule",
                rule=rule,
                watermark=watermark,
            )
        return entered

    def give_up(self, rule: str, entered_before: datetime) -> int:
        """What was tried for too long has failed; how many instances that are."""
        with self._database.transaction() as session:
            return len(session.run(_GIVE_UP, rule=rule, before=entered_before))

    def due(self, rule: str, limit: int) -> Sequence[DueInstance]:
        """What is to be sent now, what has failed least first."""
        with self._database.transaction() as session:
            return [DueInstance(*row) for row in session.run(_DUE, rule=rule, limit=limit)]

    def sent(self, rule: str, instance: UID, status: int) -> None:
        """The peer has acknowledged it. It is durable when this returns."""
        self._note(rule, instance, "sent", f"{status:04X}")

    def failed(self, rule: str, instance: UID, status: int, reason: str, *, delay: float | None) -> None:
        """It could not be sent: to be tried again in so many seconds, or with None never."""
        self._note(rule, instance, "failed" if delay is None else "pending", f"{status:04X}", reason, delay or 0)

    def delay(self, rule: str, seconds: float, reason: str) -> None:
        """The peer is away: it is left alone for a while."""
        with self._database.transaction() as session:
            session.run(_DELAY, rule=rule, delay=seconds, reason=reason)

    def recovered(self, rule: str) -> None:
        """The peer is there."""
        with self._database.transaction() as session:
            session.run("UPDATE pacs.forward_rule SET failures = 0, delayed_until = NULL, reason = '' WHERE rule = :rule", rule=rule)

    def close(self) -> None:
        """Disconnect. A later call connects again."""
        self._database.close()

    def _note(self, rule: str, instance: UID, state: str, status: str, reason: str = "", delay: float = 0) -> None:
        with self._database.transaction() as session:
            session.run(_NOTE, rule=rule, instance=instance, state=state, status=status, reason=reason, delay=delay)


def arrived(
    session: SQLSession, rule: str, state: RuleState, *, modalities: Sequence[str] = (), sources: Sequence[str] = (), condition: str = ""
) -> Sequence[Arrival]:
    """What has arrived for a rule and is not entered yet.

    InvalidSQL for a condition that is none, or that fails on what is held: the first message names what is wrong, the second no value.
    """
    since = f"TIMESTAMPTZ {literal(max(state.began_at, state.watermark - _OVERLAP).isoformat())}"
    conditions = [
        *([f"series.Modality IN ({', '.join(map(literal, modalities))})"] if modalities else []),
        *([f"instance.source_ae IN ({', '.join(map(literal, sources))})"] if sources else []),
        *([f"(\n{condition}\n)"] if condition.strip() else []),
    ]
    statement = _ARRIVED.format(since=since, rule=literal(rule), conditions="".join(f" AND {each}" for each in conditions))
    list(session.run(f"{statement} LIMIT 0").rows())
    try:
        return [Arrival(*row) for row in session.run(statement).rows()]
    except InvalidSQL:
        raise InvalidSQL("the condition fails on an instance that is held") from None
