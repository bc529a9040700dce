"""Who is expected and which of their studies are to be fetched, in PostgreSQL. What is claimed here is fetched once, by one process."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from pacs_core.index import locks
from pacs_core.index.postgres import Database, Session
from pacs_core.model import UID, Prior, PriorAttempt, PriorRequest

# Longer than an association is silent before it counts as dead; whoever fetches renews the lease with every response.
_LEASE = 400  # seconds
_LOOK_AGAIN = 1.0

_REQUEST_COLUMNS = '"PatientID", "IssuerOfPatientID", day, "Modality", "BodyPartExamined", reason'
_REQUEST = f"""
    INSERT INTO pacs.prefetch_request ({_REQUEST_COLUMNS})
    SELECT {_REQUEST_COLUMNS} FROM json_to_recordset(CAST(:rows AS json)) AS given(
        "PatientID" text, "IssuerOfPatientID" text, day date, "Modality" text, "BodyPartExamined" text, reason text)
    WHERE "PatientID" <> ''
    ON CONFLICT ("PatientID", "IssuerOfPatientID", day) DO NOTHING RETURNING 1
"""  # noqa: S608 constants
# Of each patient and day the first step. Who is only thought about (a unified procedure step) is not expected.
_SCHEDULED = """
    SELECT DISTINCT ON (1, 2, 3) "PatientID", coalesce(header->>'IssuerOfPatientID', ''), CAST(scheduled_at AS date),
        coalesce("Modality", ''), coalesce(header->>'BodyPartExamined', '')
    FROM pacs.worklist_item
    WHERE "SOPInstanceUID" IS NULL AND scheduled_at >= :since AND scheduled_at < :until AND state = 'SCHEDULED'
    ORDER BY 1, 2, 3, scheduled_at
"""
_WANTED = """
    SELECT "PatientID", day, "IssuerOfPatientID", "Modality", "BodyPartExamined", reason
    FROM pacs.prefetch_request WHERE state = 'wanted' ORDER BY day, requested_at, "PatientID" LIMIT :limit
"""
_SETTLE_REQUEST = """
    UPDATE pacs.prefetch_request SET state = :state, settled_at = clock_timestamp()
    WHERE state = 'wanted' AND "PatientID" = :patient AND "IssuerOfPatientID" = :issuer AND day = :day
"""
_EXPIRE = "UPDATE pacs.prefetch_request SET state = 'expired', settled_at = now() WHERE state = 'wanted' AND day < :today RETURNING 1"
# A study that was settled long ago and is not whole here has grown since, or was removed: it is wanted like a new one.
_ENTER = """
    INSERT INTO pacs.prefetch AS known ("StudyInstanceUID", sources, instances, rank, run_id)
    SELECT "StudyInstanceUID", ARRAY(SELECT json_array_elements_text(sources)), instances, rank, :run
    FROM json_to_recordset(CAST(:rows AS json)) AS given("StudyInstanceUID" text, sources json, instances bigint, rank integer)
    ORDER BY "StudyInstanceUID"
    ON CONFLICT ("StudyInstanceUID") DO UPDATE SET
        sources = excluded.sources, instances = excluded.instances, rank = excluded.rank, run_id = excluded.run_id, state = 'wanted',
        wanted_at = now(), next_attempt_at = now(), position = 1, rounds = 0, may_repeat = false, reason = ''
    WHERE known.state IN ('held', 'failed') AND known.settled_at < now() - INTERVAL '1 day'
    RETURNING 1
"""
_COUNTS = """
    SELECT (SELECT count(*) FROM pacs.prefetch WHERE state = 'fetching' AND lease_until > clock_timestamp()),
           (SELECT count(*) FROM pacs.prefetch_start)
"""
# The next one whose source may be asked now. Claims of killed processes are free again when their lease is over.
_NEXT = """
    SELECT "StudyInstanceUID", sources[position], instances, attempts + 1, rounds, position = cardinality(sources)
    FROM pacs.prefetch
    WHERE (state = 'wanted' AND next_attempt_at <= clock_timestamp() OR state = 'fetching' AND lease_until <= clock_timestamp())
        AND (SELECT count(*) FROM pacs.prefetch_start AS begun WHERE begun.source = sources[position])
            < coalesce(CAST(CAST(:rates AS json)->>sources[position] AS integer), 1)
    ORDER BY wanted_at, rank LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_CLAIM = """
    UPDATE pacs.prefetch SET state = 'fetching', attempts = attempts + 1, run_id = :run,
        lease_until = clock_timestamp() + make_interval(secs => :lease)
    WHERE "StudyInstanceUID" = :study
"""
_WAIT = """
    SELECT CAST(extract(epoch FROM min(CASE state WHEN 'wanted' THEN next_attempt_at ELSE lease_until END) - clock_timestamp()) AS float8)
    FROM pacs.prefetch WHERE state IN ('wanted', 'fetching')
"""
_MINE = "\"StudyInstanceUID\" = :study AND state = 'fetching' AND attempts = :number"
_RENEW = f"UPDATE pacs.prefetch SET lease_until = clock_timestamp() + make_interval(secs => :lease) WHERE {_MINE} RETURNING 1"  # noqa: S608 a constant
_HELD = f"""
    UPDATE pacs.prefetch SET state = 'held', source = :source, instances = greatest(instances, :instances), reason = '',
        settled_at = clock_timestamp()
    WHERE {_MINE}
"""  # noqa: S608 a constant
_NEXT_SOURCE = f"""
    UPDATE pacs.prefetch SET state = 'wanted', position = position + 1, may_repeat = may_repeat OR :may_repeat, reason = :reason,
        next_attempt_at = clock_timestamp()
    WHERE {_MINE}
"""  # noqa: S608 a constant
_NEXT_ROUND = f"""
    UPDATE pacs.prefetch SET
        state = CASE WHEN (may_repeat OR :may_repeat) AND CAST(:delay AS float8) IS NOT NULL THEN 'wanted' ELSE 'failed' END,
        position = 1, rounds = rounds + 1, may_repeat = false, reason = :reason, settled_at = clock_timestamp(),
        next_attempt_at = clock_timestamp() + make_interval(secs => coalesce(CAST(:delay AS float8), 0))
    WHERE {_MINE}
"""  # noqa: S608 a constant


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast studies are fetched, over all processes.

    Attributes:
        at_once: studies that are being fetched at a time.
        per_minute: attempts that begin within any minute.
        of_source: the same for each source, by AE title.
    """

    at_once: int
    per_minute: int
    of_source: Mapping[str, int]


class Prefetches:
    """The requests and the studies. Thread-safe. To be closed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Requests

    def request(self, requests: Sequence[PriorRequest]) -> int:
        """Enter patients who are expected; how many were new. The same patient is requested once a day; one without PatientID never."""
        with self._database.transaction() as session:
            return len(session.run(_REQUEST, rows=json.dumps([asdict(each) for each in requests], default=date.isoformat)))

    def scheduled(self, since: datetime, until: datetime) -> Sequence[PriorRequest]:
        """The patients of the worklist's steps that begin then, once for each day. The worklist has local times."""
        with self._database.transaction() as session:
            rows = session.run(_SCHEDULED, since=_local(since), until=_local(until))
        return [
            PriorRequest(patient, day, IssuerOfPatientID=issuer, Modality=modality, BodyPartExamined=part, reason="schedule")
            for patient, issuer, day, modality, part in rows
        ]

    def wanted(self, limit: int = 1000) -> Sequence[PriorRequest]:
        """Requests that no plan has been made for, those of the next days first."""
        with self._database.transaction() as session:
            return [PriorRequest(*row) for row in session.run(_WANTED, limit=limit)]

    def settle(self, request: PriorRequest, state: str) -> None:
        """It is `planned`, or `refused` as none that could be. Repeatable."""
        with self._database.transaction() as session:
            session.run(_SETTLE_REQUEST, state=state, patient=request.PatientID, issuer=request.IssuerOfPatientID, day=request.day)

    def expire(self, today: date) -> int:
        """What was wanted for days that are over is wanted no more; how many requests that were."""
        with self._database.transaction() as session:
            return len(session.run(_EXPIRE, today=today))

    def forget(self, before: date) -> int:
        """Remove the requests of days before one, whatever has come of them; how many. Repeatable."""
        with self._database.transaction() as session:
            return len(session.run("DELETE FROM pacs.prefetch_request WHERE day < :before RETURNING 1", before=before))

    # Studies

    def enter(self, priors: Sequence[Prior], run: str) -> int:
        """Studies that are to be fetched, the most wanted first; how many were not known, or have to be fetched anew."""
        rows = [{**asdict(prior), "rank": rank} for rank, prior in enumerate(priors, start=1)]
        with self._database.transaction() as session:
            return len(session.run(_ENTER, rows=json.dumps(rows), run=run))

    def claim(self, pace: Pace, run: str) -> PriorAttempt | float | None:
        """The next study, for the caller alone, until it is settled or the lease ends.

        Where none may be fetched now: in how many seconds to ask again, or None if nothing is left.
        """
        with self._database.transaction() as session:
            session.run("SELECT pg_advisory_xact_lock(:lock)", lock=locks.PRIORS)
            session.run("DELETE FROM pacs.prefetch_start WHERE started_at <= clock_timestamp() - INTERVAL '1 minute'")
            ((fetching, begun),) = session.run(_COUNTS)
            found = (
                session.run(_NEXT, rates=json.dumps(dict(pace.of_source))) if fetching < pace.at_once and begun < pace.per_minute else ()
            )
            if not found:
                ((wait,),) = session.run(_WAIT)
                return None if wait is None else max(_LOOK_AGAIN, wait)
            attempt = PriorAttempt(*found[0])
            session.run(_CLAIM, study=attempt.StudyInstanceUID, run=run, lease=_LEASE)
            session.run("INSERT INTO pacs.prefetch_start VALUES (:source, clock_timestamp())", source=attempt.source)
        return attempt

    def renew(self, attempt: PriorAttempt) -> bool:
        """Begin the lease anew; whether the claim still holds."""
        with self._database.transaction() as session:
            return bool(_settle(session, _RENEW, attempt, lease=_LEASE))

    def held(self, attempt: PriorAttempt, instances: int) -> None:
        """It is here, with so many instances. Does nothing where the claim holds no more."""
        with self._database.transaction() as session:
            _settle(session, _HELD, attempt, source=attempt.source, instances=instances)

    def failed(self, attempt: PriorAttempt, reason: str, *, may_repeat: bool, delay: float | None) -> None:
        """The source did not give it: the next one is asked, and after the last all of them once more.

        Args:
            may_repeat: whether it may succeed later. Where no source of a round says so, the study has failed.
            delay: seconds until the next round; None if this was the last.
        """
        with self._database.transaction() as session:
            if attempt.is_last_source:
                _settle(session, _NEXT_ROUND, attempt, reason=reason, may_repeat=may_repeat, delay=delay)
            else:
                _settle(session, _NEXT_SOURCE, attempt, reason=reason, may_repeat=may_repeat)

    def close(self) -> None:
        """Disconnect. A later call connects again."""
        self._database.close()


def _local(instant: datetime) -> datetime:
    return instant.astimezone().replace(tzinfo=None)


def _settle(session: Session, statement: str, attempt: PriorAttempt, **values: Any) -> Sequence[Any]:
    return session.run(statement, study=UID(attempt.StudyInstanceUID), number=attempt.number, **values)
