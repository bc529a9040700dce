"""Instances that retention takes out of the index: out, into quarantine, and then destroyed or brought back.

A hold is looked at in the transaction that takes the keys away, and whoever places one waits for it: a study on hold is never taken
out. The table `removed_instance` is written in that same transaction, so what a killed run has begun is known and finished.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import duckdb

from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.locations import record_event
from pacs_core.index.postgres import Database, Row, Session
from pacs_core.index.schema import clean
from pacs_core.index.texts import TEXTS, texts
from pacs_core.model import UID, Change, Hold, Removed, RemovedState, StoredObject
from pacs_core.ports import Discharge

_HOLD_LOCKS = 0x70616374  # the first half of advisory locks that mean the hold of a study

_REMOVED = (
    '"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", tier, path, size, sha256, state, removed_at, destroy_after, policy, run_id'
)
_ACTIVE = "(until IS NULL OR until > now())"
_TAKE_OUT = f"""
    WITH given AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS given("SOPInstanceUID" text, tier text, path text, sha256 text)
    ), taken AS (
        DELETE FROM pacs.instance_key AS held USING given
        WHERE held."SOPInstanceUID" = given."SOPInstanceUID" AND held.tier = given.tier AND held.path = given.path
            AND held.sha256 = given.sha256
            AND NOT EXISTS (SELECT 1 FROM pacs.hold WHERE hold."StudyInstanceUID" = held."StudyInstanceUID" AND {_ACTIVE})
        RETURNING held.*
    ), noted AS (
        INSERT INTO pacs.removed_instance ({_REMOVED})
        SELECT "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", tier, path, size, sha256, 'leaving', CAST(:at AS timestamptz),
            CAST(:destroy_after AS timestamptz), :policy, :run
        FROM taken
    )
    SELECT "SOPInstanceUID" FROM taken
"""  # noqa: S608 constants
_SET_STATE = """
    UPDATE pacs.removed_instance AS removed SET state = :state
    FROM json_to_recordset(CAST(:rows AS json)) AS given("SOPInstanceUID" text, removed_at timestamptz)
    WHERE removed."SOPInstanceUID" = given."SOPInstanceUID" AND removed.removed_at = given.removed_at AND removed.state = :was
"""
_DISCHARGEABLE = f"""
    SELECT {_REMOVED} FROM pacs.removed_instance AS removed
    WHERE state = 'quarantined' AND EXISTS (
        SELECT 1 FROM json_to_recordset(CAST(:rows AS json)) AS given("SOPInstanceUID" text, removed_at timestamptz)
        WHERE removed."SOPInstanceUID" = given."SOPInstanceUID" AND removed.removed_at = given.removed_at
    ) AND NOT (:destroys AND EXISTS (SELECT 1 FROM pacs.hold WHERE hold."StudyInstanceUID" = removed."StudyInstanceUID" AND {_ACTIVE}))
    FOR UPDATE OF removed
"""  # noqa: S608 constants


class LakeRemovals:
    """ports.Removals. Thread-safe."""

    def __init__(self, catalog_url: str, writer: LakeIndexWriter) -> None:
        self._database = Database(catalog_url)
        self._writer = writer

    def take_out(self, objects: Sequence[StoredObject], change: Change, destroy_after: datetime) -> frozenset[UID]:
        """Take instances out of the index, unless their study is on hold or they have been moved or replaced; those that were."""
        rows = [{name: getattr(each, name) for name in ("SOPInstanceUID", "tier", "path", "sha256")} for each in objects]
        with self._database.transaction() as session:
            _lock_holds(session, {each.StudyInstanceUID for each in objects})
            taken = session.run(
                _TAKE_OUT,
                rows=clean(json.dumps(rows, ensure_ascii=False)),
                at=change.at,
                destroy_after=destroy_after,
                policy=change.policy,
                run=change.run,
            )
            uids = frozenset(UID(uid) for (uid,) in taken)
            record_event(session, [each for each in objects if each.SOPInstanceUID in uids], change)
        return uids

    def forget_rows(self, removed: Sequence[Removed], change: Change) -> None:
        """Let the lake no longer tell of instances that have no key, nor of series, studies and patients of which nothing is left."""
        if not removed:
            return
        with self._writer.committing() as (session, lake):
            uids = [each.SOPInstanceUID for each in removed]
            held = {uid for (uid,) in session.run(_KEYS_AMONG, uids=uids)}
            gone = [uid for uid in uids if uid not in held]
            studies = sorted({each.StudyInstanceUID for each in removed})
            with self._writer.files.transaction(lake):
                details = json.dumps({"run_id": change.run, "policy": change.policy})
                lake.execute("CALL lake.set_commit_message(?, ?, extra_info => ?)", [change.flow, change.action, details])
                lake.execute(f"DELETE FROM lake.instance WHERE SOPInstanceUID IN (SELECT {TEXTS})", [texts(gone)])  # noqa: S608 constants
                _delete_childless(lake, studies)

    def all(self, state: RemovedState, *, studies: Collection[str] | None = None, due_at: datetime | None = None) -> Sequence[Removed]:
        """What is in a state, of some studies or of all; or only what is due to be destroyed at an instant, and not on hold."""
        with self._database.transaction() as session:
            rows = session.run(
                f"SELECT {_REMOVED} FROM pacs.removed_instance WHERE state = :state"  # noqa: S608 constants
                ' AND (CAST(:studies AS text[]) IS NULL OR "StudyInstanceUID" = ANY(CAST(:studies AS text[])))'
                " AND (CAST(:due_at AS timestamptz) IS NULL OR (destroy_after <= CAST(:due_at AS timestamptz) AND NOT EXISTS ("
                f'SELECT 1 FROM pacs.hold WHERE hold."StudyInstanceUID" = removed_instance."StudyInstanceUID" AND {_ACTIVE})))'
                ' ORDER BY "StudyInstanceUID", "SOPInstanceUID"',
                state=state.value,
                studies=None if studies is None else sorted(studies),
                due_at=due_at,
            )
        return [_removed(row) for row in rows]

    def quarantined(self, removed: Sequence[Removed]) -> None:
        """Objects that were leaving are out of the way."""
        with self._database.transaction() as session:
            session.run(_SET_STATE, rows=_keys(removed), was="leaving", state="quarantined")

    @contextmanager
    def discharging(self, removed: Sequence[Removed], state: RemovedState, change: Change) -> Iterator[Discharge]:
        """Let objects leave quarantine for good: those of them that are still in it, and, where they are to be destroyed, not on hold.

        While the context lasts nobody else can take them out of it, or place a hold. What is entered as done then has the new state.
        """
        destroys = state is RemovedState.DESTROYED
        with self._database.transaction() as session:
            if destroys:
                _lock_holds(session, {each.StudyInstanceUID for each in removed})
            rows = session.run(_DISCHARGEABLE, rows=_keys(removed), destroys=destroys)
            discharge = Discharge(tuple(map(_removed, rows)))
            yield discharge
            session.run(_SET_STATE, rows=_keys(discharge.done), was="quarantined", state=state.value)
            record_event(session, discharge.done, change)

    def in_use(self, removed: Sequence[Removed]) -> frozenset[tuple[str, str]]:
        """Tiers and paths, of those of removed objects, under which an instance or a copy is held by now."""
        with self._database.transaction() as session:
            uids = [each.SOPInstanceUID for each in removed]
            rows = [
                *session.run(_NAMES.format(table="instance_key"), uids=uids),
                *session.run(_NAMES.format(table="instance_copy"), uids=uids),
            ]
        return frozenset((tier, path) for tier, path in rows)

    def removed_as_well(self, removed: Sequence[Removed]) -> frozenset[str]:
        """Which of the digests are those of other removals, whose time has not come."""
        with self._database.transaction() as session:
            rows = session.run(_REMOVED_AS_WELL, rows=_keys(removed), digests=[each.sha256 for each in removed])
        return frozenset(digest for (digest,) in rows)

    def close(self) -> None:
        """Release everything."""
        self._database.close()
        self._writer.close()


_KEYS_AMONG = 'SELECT "SOPInstanceUID" FROM pacs.instance_key WHERE "SOPInstanceUID" = ANY(CAST(:uids AS text[]))'
_REMOVED_AS_WELL = """
    SELECT DISTINCT sha256 FROM pacs.removed_instance AS removed
    WHERE sha256 = ANY(CAST(:digests AS text[])) AND state IN ('leaving', 'quarantined') AND NOT EXISTS (
        SELECT 1 FROM json_to_recordset(CAST(:rows AS json)) AS given("SOPInstanceUID" text, removed_at timestamptz)
        WHERE removed."SOPInstanceUID" = given."SOPInstanceUID" AND removed.removed_at = given.removed_at
    )
"""
_NAMES = 'SELECT tier, path FROM pacs.{table} WHERE "SOPInstanceUID" = ANY(CAST(:uids AS text[]))'


class Holds:
    """Studies that retention must not touch, in PostgreSQL. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def place(self, hold: Hold) -> None:
        """Place or change a hold: from now on the study is not taken out."""
        with self._database.transaction() as session:
            _lock_holds(session, {hold.StudyInstanceUID})
            session.run(
                'INSERT INTO pacs.hold ("StudyInstanceUID", reason, placed_by, until) VALUES (:study, :reason, :placed_by, :until)'
                ' ON CONFLICT ("StudyInstanceUID")'
                " DO UPDATE SET reason = excluded.reason, placed_by = excluded.placed_by, until = excluded.until",
                study=hold.StudyInstanceUID,
                reason=hold.reason,
                placed_by=hold.placed_by,
                until=hold.until,
            )

    def all(self) -> Sequence[Hold]:
        """Every hold, those that are over included."""
        with self._database.transaction() as session:
            rows = session.run('SELECT "StudyInstanceUID", reason, placed_by, placed_at, until FROM pacs.hold ORDER BY "StudyInstanceUID"')
        return [Hold(UID(study), reason, placed_by, placed_at, until) for study, reason, placed_by, placed_at, until in rows]

    def release(self, study: UID) -> bool:
        """Whether there was one to release."""
        with self._database.transaction() as session:
            return bool(session.run('DELETE FROM pacs.hold WHERE "StudyInstanceUID" = :study RETURNING 1', study=study))


def _lock_holds(session: Session, studies: Iterable[UID]) -> None:
    """Until the end of the transaction, nobody else places a hold on these studies or takes them out."""
    session.run(
        "SELECT pg_advisory_xact_lock(CAST(:space AS integer), number) FROM"
        " (SELECT DISTINCT hashtext(study) AS number FROM unnest(CAST(:studies AS text[])) AS study ORDER BY 1) AS numbers",
        space=_HOLD_LOCKS,
        studies=sorted(map(clean, studies)),
    )


def _keys(removed: Iterable[Removed]) -> str:
    rows = [{"SOPInstanceUID": each.SOPInstanceUID, "removed_at": each.removed_at.isoformat()} for each in removed]
    return clean(json.dumps(rows, ensure_ascii=False))


def _delete_childless(lake: duckdb.DuckDBPyConnection, studies: Sequence[UID]) -> None:
    uids = texts(studies)
    lake.execute(
        f"DELETE FROM lake.series WHERE StudyInstanceUID IN (SELECT {TEXTS}) AND (StudyInstanceUID, SeriesInstanceUID) NOT IN"  # noqa: S608 constants
        f" (SELECT (StudyInstanceUID, SeriesInstanceUID) FROM lake.instance WHERE StudyInstanceUID IN (SELECT {TEXTS}))",
        [uids, uids],
    )
    patients = lake.execute(f"SELECT DISTINCT PatientID FROM lake.study WHERE StudyInstanceUID IN (SELECT {TEXTS})", [uids]).fetchall()  # noqa: S608 constants
    lake.execute(
        f"DELETE FROM lake.study WHERE StudyInstanceUID IN (SELECT {TEXTS}) AND StudyInstanceUID NOT IN"  # noqa: S608 constants
        f" (SELECT StudyInstanceUID FROM lake.instance WHERE StudyInstanceUID IN (SELECT {TEXTS}))",
        [uids, uids],
    )
    lake.execute(
        f"DELETE FROM lake.patient WHERE PatientID IN (SELECT {TEXTS}) AND (PatientID, IssuerOfPatientID) NOT IN"  # noqa: S608 constants
        f" (SELECT (PatientID, IssuerOfPatientID) FROM lake.study WHERE PatientID IN (SELECT {TEXTS}))",
        [texts(patient for (patient,) in patients)] * 2,
    )


def _removed(row: Row) -> Removed:
    values = dict(zip(Removed.__dataclass_fields__, row, strict=True))
    return Removed(**values | {"state": RemovedState(values["state"])})
