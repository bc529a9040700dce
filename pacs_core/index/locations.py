"""Where instances are: moved, copied, taken out, so that a crash at any line leaves every object known and every instance held.

An object that is not the one of its key has a row in `instance_copy`, written before the object is and removed after it is gone:
`arriving` while it is copied, `held` as a further good copy, `leaving` once the key names another. Whoever works on a study holds
its lock and first settles what an earlier, killed run has left. The key in PostgreSQL says where an instance is; it changes only
from what it was when the copy was made. The lake follows, and only then does the old object go.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import duckdb

from pacs_core.index import locks
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.keys import OBJECT_COLUMNS
from pacs_core.index.postgres import CatalogURL, Database, Row, Session
from pacs_core.index.schema import clean
from pacs_core.index.texts import TEXTS, named_texts, texts
from pacs_core.model import UID, Change, Copy, CopyState, Removed, StoredObject
from pacs_core.ports import Departure, Locked, StudyTotals

_OBJECT = ", ".join(f'"{name}"' for name in OBJECT_COLUMNS)
_KEY_TYPES = '"SOPInstanceUID" text, tier text, path text, size bigint, sha256 text, "SeriesInstanceUID" text, "StudyInstanceUID" text'
_GIVEN = f"json_to_recordset(CAST(:rows AS json)) AS given({_KEY_TYPES}, target text, target_path text, member text)"

# As one value: the driver takes rows apart in Python, and JSON is taken apart in C.
_STUDY_OBJECTS = f"""
    SELECT json_agg(json_build_array({_OBJECT})) FROM pacs.instance_key WHERE "StudyInstanceUID" = ANY(CAST(:studies AS text[]))
"""  # noqa: S608 constants
_COPY = '"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", tier, path, member, size, sha256, state, since, verified_at, run_id'
_COPIES = f'SELECT {_COPY} FROM pacs.instance_copy WHERE "StudyInstanceUID" = ANY(CAST(:studies AS text[]))'  # noqa: S608 constants
_DEPARTING = f"""
    SELECT {_COPY} FROM pacs.instance_copy AS copy
    WHERE "StudyInstanceUID" = ANY(CAST(:studies AS text[])) AND state <> 'held' AND NOT EXISTS (
        SELECT 1 FROM pacs.instance_key AS held
        WHERE held."SOPInstanceUID" = copy."SOPInstanceUID" AND held.tier = copy.tier AND held.path = copy.path AND copy.member = ''
    )
    FOR UPDATE OF copy
"""  # noqa: S608 constants

# A copy that is held already is made again; one that is leaving has to be settled first.
_ANNOUNCE = f"""
    INSERT INTO pacs.instance_copy ({_COPY})
    SELECT "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", target, target_path, member, size, sha256, 'arriving', now(), NULL,
        :run
    FROM {_GIVEN}
    WHERE NOT EXISTS (
        SELECT 1 FROM pacs.removed_instance AS removed
        WHERE removed."SOPInstanceUID" = given."SOPInstanceUID" AND removed.tier = given.target AND removed.path = given.target_path
            AND removed.state IN ('leaving', 'quarantined') AND removed.sha256 <> given.sha256
    )
    ON CONFLICT ("SOPInstanceUID", tier, path, member) DO UPDATE SET run_id = excluded.run_id
    WHERE pacs.instance_copy.state <> 'leaving' AND pacs.instance_copy.sha256 = excluded.sha256
    RETURNING "SOPInstanceUID"
"""  # noqa: S608 constants
# Only those whose copy is still the one that this run has announced: another may have removed it, were our lock lost.
_MOVE_KEYS = f"""
    WITH given AS (SELECT * FROM {_GIVEN}), announced AS (
        SELECT given.* FROM pacs.instance_copy AS copy JOIN given
            ON copy."SOPInstanceUID" = given."SOPInstanceUID" AND copy.tier = given.target AND copy.path = given.target_path
        WHERE copy.member = '' AND copy.state <> 'leaving' AND copy.sha256 = given.sha256 AND copy.run_id = :run
        FOR UPDATE OF copy
    )
    UPDATE pacs.instance_key AS held SET tier = announced.target
    FROM announced
    WHERE held."SOPInstanceUID" = announced."SOPInstanceUID" AND held.tier = announced.tier AND held.path = announced.path
        AND held.sha256 = announced.sha256
    RETURNING held."SOPInstanceUID"
"""  # noqa: S608 constants
_FORGET = """
    DELETE FROM pacs.instance_copy AS copy USING json_to_recordset(CAST(:rows AS json))
        AS given("SOPInstanceUID" text, tier text, path text, member text)
    WHERE copy."SOPInstanceUID" = given."SOPInstanceUID" AND copy.tier = given.tier AND copy.path = given.path
        AND copy.member = given.member
"""
_LEAVE = f"""
    INSERT INTO pacs.instance_copy ({_COPY})
    SELECT "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", tier, path, '', size, sha256, :state, now(), NULL, :run
    FROM {_GIVEN}
    ON CONFLICT ("SOPInstanceUID", tier, path, member) DO UPDATE SET state = excluded.state, run_id = excluded.run_id
"""  # noqa: S608 constants
_HOLD = f"""
    UPDATE pacs.instance_copy AS copy SET state = 'held', since = now(), verified_at = now(), run_id = :run
    FROM {_GIVEN}
    WHERE copy."SOPInstanceUID" = given."SOPInstanceUID" AND copy.tier = given.target AND copy.path = given.target_path
        AND copy.member = given.member AND copy.run_id = :run AND EXISTS (
            SELECT 1 FROM pacs.instance_key AS held WHERE held."SOPInstanceUID" = given."SOPInstanceUID" AND held.sha256 = given.sha256
        )
    RETURNING copy."SOPInstanceUID"
"""  # noqa: S608 constants
_COPIED_INSTANCES = """
    SELECT copy."StudyInstanceUID", count(DISTINCT copy."SOPInstanceUID")
    FROM pacs.instance_copy AS copy JOIN pacs.instance_key AS held USING ("SOPInstanceUID", sha256)
    WHERE copy.tier = :tier AND copy.state = 'held' GROUP BY 1
"""
_VERIFIED = """
    UPDATE pacs.instance_copy AS copy SET verified_at = :at FROM json_to_recordset(CAST(:rows AS json))
        AS given("SOPInstanceUID" text, tier text, path text, member text)
    WHERE copy."SOPInstanceUID" = given."SOPInstanceUID" AND copy.tier = given.tier AND copy.path = given.path
        AND copy.member = given.member
"""
_EVENTS = """
    INSERT INTO pacs.study_event ("StudyInstanceUID", action, from_tier, to_tier, instances, bytes, flow, policy, run_id)
    SELECT "StudyInstanceUID", :action, tier, target, count(*), sum(size), :flow, :policy, :run
    FROM json_to_recordset(CAST(:rows AS json)) AS given("StudyInstanceUID" text, tier text, target text, size bigint)
    GROUP BY "StudyInstanceUID", tier, target
"""


class LakeLocations:
    """ports.Locations. Thread-safe.

    Args:
        catalog_url: where the keys are.
        writer: lends its connection to the lake, and its turn among the committers.
    """

    def __init__(self, catalog_url: str, writer: LakeIndexWriter) -> None:
        self._url = CatalogURL.parse(catalog_url)
        self._database = Database(catalog_url)
        self._writer = writer

    @contextmanager
    def locked(self, studies: Iterable[UID]) -> Iterator[Locked]:
        """Be the only one who works on these studies; those that somebody else works on are left out."""
        with locks.locking(self._url, application_name="pacs-study-lock") as session:
            mine = session.run(
                "SELECT study FROM unnest(CAST(:studies AS text[])) AS study"
                " WHERE pg_try_advisory_lock(CAST(:space AS integer), hashtext(study))",
                studies=sorted(map(clean, set(studies))),
                space=locks.STUDIES,
            )
            yield Locked(frozenset(UID(study) for (study,) in mine), check=lambda: _check_alive(session))

    def objects(self, studies: Sequence[UID]) -> Sequence[StoredObject]:
        """The objects that hold the instances of studies now."""
        with self._database.transaction() as session:
            ((rows,),) = session.run(_STUDY_OBJECTS, studies=[clean(study) for study in studies])
        return [StoredObject(*row) for row in rows or ()]

    def copies(self, studies: Sequence[UID]) -> Sequence[Copy]:
        """All other objects of studies, whatever their state."""
        with self._database.transaction() as session:
            return [_copy(row) for row in session.run(_COPIES, studies=[clean(study) for study in studies])]

    @contextmanager
    def departing(self, studies: Sequence[UID]) -> Iterator[Departure]:
        """The objects of studies that are to be removed: on their way, and not what holds an instance.

        Only while the context lasts may they be, and only what is then entered as gone is forgotten: nobody else can make a copy
        under such a name in the meantime.
        """
        with self._database.transaction() as session:
            rows = session.run(_DEPARTING, studies=[clean(study) for study in studies])
            departure = Departure(tuple(map(_copy, rows)), check=lambda: _check_alive(session))
            yield departure
            session.run(_FORGET, rows=_copy_keys(departure.gone))

    def copied_instances(self, tier: str) -> Mapping[str, int]:
        """How many instances of which study have a copy on a tier."""
        with self._database.transaction() as session:
            rows = session.run(_COPIED_INSTANCES, tier=tier)
        return {study: count for study, count in rows}  # noqa: C416 - rows are lists

    def verified(self, copies: Sequence[Copy], when: datetime) -> None:
        """Remember that copies were read and found good."""
        rows = [{name: getattr(each, name) for name in ("SOPInstanceUID", "tier", "path", "member")} for each in copies]
        with self._database.transaction() as session:
            session.run(_VERIFIED, rows=clean(json.dumps(rows, ensure_ascii=False)), at=when)

    def names(self, tier: str) -> Iterator[str]:
        """Every path of a tier under which anything is, is to be, or is kept until it is destroyed."""
        with self._database.transaction() as session:
            for table in ("instance_key", "instance_copy", "removed_instance"):
                gone = "AND state <> 'destroyed'" if table == "removed_instance" else ""
                ((paths,),) = session.run(f"SELECT json_agg(path) FROM pacs.{table} WHERE tier = :tier {gone}", tier=tier)  # noqa: S608 constants
                yield from paths or ()

    def unsettled_studies(self) -> Sequence[UID]:
        """Studies of which a run that is over, or still at work, has copies on their way."""
        with self._database.transaction() as session:
            rows = session.run("""SELECT DISTINCT "StudyInstanceUID" FROM pacs.instance_copy WHERE state <> 'held'""")
        return [UID(study) for (study,) in rows]

    def announce(self, objects: Sequence[StoredObject], tier: str, run: str, *, package: str = "") -> frozenset[UID]:
        """Say that copies of these objects will be on a tier, under the same paths or in a package; those of which one may be made."""
        with self._database.transaction() as session:
            return _uids(session.run(_ANNOUNCE, rows=_rows(objects, tier, package), run=run))

    def moved(self, objects: Sequence[StoredObject], tier: str, change: Change, *, keep: bool = False) -> frozenset[UID]:
        """The objects' announced copies on a tier are good: they are now what holds the instances.

        Those that have been replaced or moved meanwhile keep their place; the instances that changed it are returned. The old
        objects become `leaving`, or, with `keep`, further copies.
        """
        with self._writer.committing() as (session, lake):
            with session.transaction():
                moved = _uids(session.run(_MOVE_KEYS, rows=_rows(objects, tier), run=change.run))
                gone = [each for each in objects if each.SOPInstanceUID in moved]
                if gone:
                    session.run(_FORGET, rows=_arrived(gone, tier))
                    session.run(_LEAVE, rows=_rows(gone, tier), run=change.run, state="held" if keep else "leaving")
                    record_event(session, gone, change, target=tier)
            if gone:
                self._follow(lake, [UID(clean(uid)) for uid in moved], [tier] * len(moved), change)
        return moved

    def copied(self, objects: Sequence[StoredObject], tier: str, change: Change, *, package: str = "") -> frozenset[UID]:
        """The objects' announced copies on a tier are good and stay beside them; returns the instances they are good for."""
        with self._database.transaction() as session:
            held = _uids(session.run(_HOLD, rows=_rows(objects, tier, package), run=change.run))
            record_event(session, [each for each in objects if each.SOPInstanceUID in held], change, target=tier)
        return held

    def note(self, objects: Sequence[StoredObject], change: Change) -> None:
        """Write down what was done to the studies of these objects."""
        with self._database.transaction() as session:
            record_event(session, objects, change, target=objects[0].tier if objects else "")

    def catch_up(self, studies: Sequence[UID], change: Change) -> None:
        """Let the lake name the tiers that the keys name: a run may have died between the two."""
        with self._writer.committing() as (_, lake):
            keys = {each.SOPInstanceUID: each for each in self.objects(studies)}
            stale = [uid for uid, tier in _rows_of(lake, studies) if uid in keys and keys[uid].tier != tier]
            if stale:
                self._follow(lake, stale, [keys[uid].tier for uid in stale], change)

    def untold(self, studies: Sequence[UID]) -> frozenset[UID]:
        """Instances that have a key and no row of the lake: whoever was to commit them has died."""
        with self._writer.committing() as (_, lake):
            keys = {each.SOPInstanceUID for each in self.objects(studies)}
            rows = _rows_of(lake, studies)
        return frozenset(keys - {uid for uid, _ in rows})

    def totals(self, run: str) -> Sequence[StudyTotals]:
        """What a run has done, by action and tiers."""
        with self._database.transaction() as session:
            rows = session.run(
                'SELECT action, from_tier, to_tier, count(DISTINCT "StudyInstanceUID"), sum(instances)::bigint, sum(bytes)::bigint'
                " FROM pacs.study_event WHERE run_id = :run GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
                run=run,
            )
        return [StudyTotals(*row) for row in rows]

    def close(self) -> None:
        """Release everything."""
        self._database.close()
        self._writer.close()

    def _follow(self, lake: duckdb.DuckDBPyConnection, uids: Sequence[UID], tiers: Sequence[str], change: Change) -> None:
        with self._writer.files.transaction(lake):
            lake.execute(
                "CALL lake.set_commit_message(?, ?, extra_info => ?)",
                [change.flow, change.action, json.dumps({"run_id": change.run, "policy": change.policy})],
            )
            lake.execute(
                "UPDATE lake.instance SET tier = moved.tier, located_at = $at, located_by = $run"  # noqa: S608 constants
                f" FROM (SELECT {named_texts('uids')} AS uid, {named_texts('tiers')} AS tier) AS moved"
                " WHERE SOPInstanceUID = moved.uid",
                {"at": change.at, "run": change.run, "uids": texts(uids), "tiers": texts(tiers)},
            )


def _rows_of(lake: duckdb.DuckDBPyConnection, studies: Sequence[UID]) -> Sequence[tuple[UID, str]]:
    """The instances of studies that the lake tells of, with their tiers."""
    query = f"SELECT SOPInstanceUID, tier FROM lake.instance WHERE StudyInstanceUID IN (SELECT {TEXTS})"  # noqa: S608 a constant
    return [(UID(uid), tier) for uid, tier in lake.execute(query, [texts(clean(study) for study in studies)]).fetchall()]


def _check_alive(session: Session) -> None:
    session.run("SELECT 1")


def record_event(session: Session, objects: Iterable[StoredObject | Removed], change: Change, *, target: str = "") -> None:
    """Write down, for each study and tier, what is done to these objects; part of the transaction that does it."""
    rows = [{"StudyInstanceUID": each.StudyInstanceUID, "tier": each.tier, "target": target, "size": each.size} for each in objects]
    session.run(
        _EVENTS,
        rows=clean(json.dumps(rows, ensure_ascii=False)),
        action=change.action,
        flow=change.flow,
        policy=change.policy,
        run=change.run,
    )


def _uids(rows: Iterable[Row]) -> frozenset[UID]:
    return frozenset(UID(uid) for (uid,) in rows)


def _rows(objects: Iterable[StoredObject], tier: str, package: str = "") -> str:
    names = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "tier", "path", "size", "sha256")
    rows = [
        {name: getattr(each, name) for name in names}
        | {"target": tier, "target_path": package or each.path, "member": each.path if package else ""}
        for each in objects
    ]
    return clean(json.dumps(rows, ensure_ascii=False))


def _copy_keys(copies: Iterable[Copy]) -> str:
    names = ("SOPInstanceUID", "tier", "path", "member")
    return clean(json.dumps([{name: getattr(each, name) for name in names} for each in copies], ensure_ascii=False))


def _arrived(objects: Iterable[StoredObject], tier: str) -> str:
    keys = [{"SOPInstanceUID": each.SOPInstanceUID, "tier": tier, "path": each.path, "member": ""} for each in objects]
    return clean(json.dumps(keys, ensure_ascii=False))


def _copy(row: Row) -> Copy:
    values = dict(zip(Copy.__dataclass_fields__, row, strict=True))
    return Copy(**values | {"state": CopyState(values["state"])})
