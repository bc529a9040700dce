"""Which object holds which SOPInstanceUID: the table `instance_key`, the one place that keeps uniqueness, and tells where objects are.

`plan_keys` decides, purely, what a batch of records makes of the keys that are held; the functions read and write
them. A key is written before the lake, so a lake row always has its key, and a key without its row is a commit that
was cut short.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pacs_core.index.postgres import Row, Session
from pacs_core.index.schema import clean, column_value
from pacs_core.model import UID, InstanceRecord, StoredObject


@dataclass(frozen=True, slots=True)
class HeldObject:
    """An object, when it was received, and its InstanceNumber, where it has one."""

    object: StoredObject
    received_at: datetime
    number: int | None = None

    def is_same_object(self, other: "HeldObject") -> bool:
        """Whether both are one stored object, however often it was received."""
        return (self.object.path, self.object.sha256) == (other.object.path, other.object.sha256)

    def is_in_place_of(self, other: "HeldObject") -> bool:
        """Whether both have one name, so that the later one has been written over the other."""
        return (self.object.tier, self.object.path) == (other.object.tier, other.object.path)

    def is_same_reception(self, other: "HeldObject") -> bool:
        """Whether both tell of one reception."""
        return (self.object.path, self.received_at) == (other.object.path, other.received_at)


@dataclass(frozen=True, slots=True)
class HeldKeys:
    """What is known of the SOPInstanceUIDs of a batch: who holds them, and who did before."""

    current: Mapping[UID, HeldObject]
    superseded: Mapping[UID, Sequence[HeldObject]]


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What a batch makes of the keys.

    Attributes:
        added: records whose SOPInstanceUID was not held; each takes its key.
        changed: records that take over a held key.
        retired: who gives way to `changed`.
        winners: for each UID that a record of the batch holds in the end, that record.
        unsure: those of the winners' UIDs whose lake row may exist already, in this or an older form.
        repeated: how many records had been committed before, or earlier in the batch.
        superseded: the objects that gave way, now or when a repeated record was first committed.
        conflicting: records whose SOPInstanceUID another object holds.
        damaged: objects that keep their key, and of which a record says that their bytes have changed since.
    """

    added: tuple[InstanceRecord, ...]
    changed: tuple[InstanceRecord, ...]
    retired: tuple[HeldObject, ...]
    winners: Mapping[UID, InstanceRecord]
    unsure: frozenset[UID]
    repeated: int
    superseded: tuple[StoredObject, ...]
    conflicting: tuple[InstanceRecord, ...]
    damaged: tuple[StoredObject, ...]


def plan_keys(records: Sequence[InstanceRecord], held: HeldKeys) -> KeyPlan:
    """Apply the records in order. A record replaces the holder if it may, or if it has the holder's own name.

    Only what was received later replaces: records of several processes can come in another order than they arrived.
    A replayed record that has had its time is recognised by its reception, so that it never takes its key back; and
    a record that tells of the holder's own reception with another digest was made from a damaged object.
    """
    current = dict(held.current)
    earlier = defaultdict(list, {uid: list(objects) for uid, objects in held.superseded.items()})
    winners: dict[UID, InstanceRecord] = {}
    retired: list[HeldObject] = []
    conflicting: list[InstanceRecord] = []
    damaged: list[StoredObject] = []
    gone: list[HeldObject] = []
    repeated = 0
    for record in records:
        uid, incoming = record.SOPInstanceUID, held_object(record)
        holder = current.get(uid)
        if holder is None:
            current[uid], winners[uid] = incoming, record
        elif holder.is_same_object(incoming):
            winners.setdefault(uid, replace(record, tier=holder.object.tier))  # it may have been moved since
            gone += _displaced_by(incoming, earlier[uid])
            repeated += 1
        elif any(incoming.is_same_reception(former) for former in earlier[uid]):
            gone += _displaced_by(incoming, earlier[uid])
            repeated += 1
        elif holder.is_same_reception(incoming):
            damaged.append(holder.object)
            repeated += 1
        elif (record.replaces or incoming.is_in_place_of(holder)) and holder.received_at <= incoming.received_at:
            earlier[uid].append(holder)
            retired.append(holder)
            gone.append(holder)
            current[uid], winners[uid] = incoming, record
        else:
            conflicting.append(record)
    changed = [uid for uid in winners if uid in held.current and not current[uid].is_same_object(held.current[uid])]
    return KeyPlan(
        added=tuple(record for uid, record in winners.items() if uid not in held.current),
        changed=tuple(winners[uid] for uid in changed),
        retired=tuple(retired),
        winners=winners,
        unsure=frozenset(winners.keys() & held.current.keys()),
        repeated=repeated,
        superseded=_out_of_use(gone, current),
        conflicting=tuple(conflicting),
        damaged=tuple(dict.fromkeys(damaged)),
    )


def _displaced_by(incoming: HeldObject, formers: Iterable[HeldObject]) -> list[HeldObject]:
    """Who gave way to a reception when it was first committed: the last of those before it."""
    before = [former for former in formers if former.received_at <= incoming.received_at and not incoming.is_same_reception(former)]
    latest = max((former.received_at for former in before), default=None)
    return [former for former in before if former.received_at == latest]


def _out_of_use(gone: Iterable[HeldObject], current: Mapping[UID, HeldObject]) -> tuple[StoredObject, ...]:
    """Former objects, the ones whose name is in use left out: they have been written over in place."""
    former = dict.fromkeys(gone)
    return tuple(held.object for held in former if not held.is_in_place_of(current[held.object.SOPInstanceUID]))


def held_object(record: InstanceRecord) -> HeldObject:
    """The record's object."""
    number = column_value("InstanceNumber", record.header.get("InstanceNumber"))
    return HeldObject(record.object, record.origin.received_at, number if isinstance(number, int) else None)


OBJECT_COLUMNS = tuple(StoredObject.__dataclass_fields__)
_OBJECT = ", ".join(f'"{name}"' for name in OBJECT_COLUMNS)
_COLUMNS = f'{_OBJECT}, received_at, "InstanceNumber"'
_SELECT_CURRENT = f'SELECT {_COLUMNS} FROM pacs.instance_key WHERE "SOPInstanceUID" = ANY(CAST(:uids AS text[]))'  # noqa: S608 a constant
_SELECT_SUPERSEDED = (
    f'SELECT {_COLUMNS} FROM pacs.instance_superseded WHERE "SOPInstanceUID" = ANY(CAST(:uids AS text[])) ORDER BY received_at'  # noqa: S608 a constant
)
_INSERT = "INSERT INTO pacs.instance_key SELECT * FROM json_populate_recordset(NULL::pacs.instance_key, :rows)"
_RETIRE = """
    INSERT INTO pacs.instance_superseded SELECT * FROM json_populate_recordset(NULL::pacs.instance_key, :rows) ON CONFLICT DO NOTHING
"""
_SERIES_OF = """
    SELECT DISTINCT "StudyInstanceUID", "SeriesInstanceUID" FROM pacs.{table} WHERE "StudyInstanceUID" = ANY(CAST(:studies AS text[]))
"""
# In the order in which a viewer wants them. One value of JSON: the driver takes ten times as long over rows.
_LOCATE = """
    SELECT json_agg(json_build_array({columns}) ORDER BY {order}) FROM pacs.instance_key WHERE {condition}
"""
_ORDER = '"StudyInstanceUID" COLLATE "C", "SeriesInstanceUID" COLLATE "C", "InstanceNumber", received_at, "SOPInstanceUID" COLLATE "C"'
_LEAVING = """
    SELECT DISTINCT "SOPInstanceUID" FROM pacs.removed_instance WHERE state = 'leaving' AND "SOPInstanceUID" = ANY(CAST(:uids AS text[]))
"""
_DELETE = 'DELETE FROM pacs.instance_key WHERE "SOPInstanceUID" = ANY(CAST(:uids AS text[]))'


def read_keys(session: Session, uids: Iterable[UID]) -> HeldKeys:
    """Who holds and held the UIDs."""
    current = {held.object.SOPInstanceUID: held for held in map(_held, session.run(_SELECT_CURRENT, uids=list(uids)))}
    superseded: dict[UID, list[HeldObject]] = defaultdict(list)
    if current:
        for held in map(_held, session.run(_SELECT_SUPERSEDED, uids=list(current))):
            superseded[held.object.SOPInstanceUID].append(held)
    return HeldKeys(current, superseded)


def read_series(session: Session, studies: Iterable[str]) -> set[tuple[str, str]]:
    """The series, as pairs of study and series UID, that any instance of these studies is or was in.

    A series without is in no table of the lake: its first instance has its key before the series has its row.
    """
    asked = list(studies)
    tables = ("instance_key", "instance_superseded", "removed_instance") if asked else ()
    return {(study, series) for table in tables for study, series in session.run(_SERIES_OF.format(table=table), studies=asked)}


def read_leaving(session: Session, uids: Iterable[UID]) -> frozenset[UID]:
    """Those of the instances that have no key, but may still have a row in the lake: retention has just taken the key."""
    rows = session.run(_LEAVING, uids=list(uids))
    return frozenset(UID(uid) for (uid,) in rows)


def locate(session: Session, *, studies: Sequence[str], series: Sequence[str], instances: Sequence[str]) -> list[StoredObject]:
    """The objects held that are in one of each level's UIDs, by study, series and number. An empty sequence is any."""
    named = {"StudyInstanceUID": studies, "SeriesInstanceUID": series, "SOPInstanceUID": instances}
    asked = {keyword: [clean(uid) for uid in uids] for keyword, uids in named.items() if uids}
    condition = " AND ".join(f'"{keyword}" = ANY(CAST(:{keyword} AS text[]))' for keyword in asked) or "true"
    ((objects,),) = session.run(_LOCATE.format(columns=_OBJECT, order=_ORDER, condition=condition), **asked)
    return [StoredObject(*row) for row in objects or ()]


def write_keys(session: Session, plan: KeyPlan) -> None:
    """Make the keys what the plan says, in one transaction.

    IndexUnavailable, with nothing written, if a key was taken since they were read.
    """
    with session.transaction():
        if plan.retired:
            session.run(_RETIRE, rows=_encode(plan.retired))
        if plan.changed:
            session.run(_DELETE, uids=[record.SOPInstanceUID for record in plan.changed])
        taken = (*plan.added, *plan.changed)
        session.run(_INSERT, rows=_encode(map(held_object, taken)))


def _held(row: Row) -> HeldObject:
    *columns, received_at, number = row
    return HeldObject(StoredObject(*columns), received_at, number)


def _encode(objects: Iterable[HeldObject]) -> str:
    rows = [
        {name: getattr(held.object, name) for name in OBJECT_COLUMNS}
        | {"received_at": held.received_at.isoformat(), "InstanceNumber": held.number}
        for held in objects
    ]
    return clean(json.dumps(rows, ensure_ascii=False))
