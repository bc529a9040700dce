"""Group commit of instance records: keys in PostgreSQL first, then rows in the lake.

Exactly once, wherever a process dies, by four rules:

1. One committer at a time. An advisory lock of PostgreSQL says who; it is held by the session that writes the keys,
   so whoever loses it can write no key either.
2. The lake is written over connections of DuckDB's own, which the lock does not cover. Each such connection has a
   name; the committer enters its name as `holder`, and a trigger refuses lake commits under any other name. A
   commit of a predecessor that is still on its way is ended, or waited for, before the new name is in.
3. Keys are committed before rows. So a UID without a key has no row, and is inserted blindly; for a UID with a key
   the lake is asked what it has. The same goes for a study or a series none of whose instances has a key: asking the
   lake takes 10 ms for each of its tables, the keys 1 ms. A replayed batch therefore completes whatever an earlier attempt left undone.
   Rows that are files of their own are on stable storage before the catalog names them.
4. A replacement is remembered with who gave way, in the transaction that moves the key: a replay finds it there.
"""

import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime

import duckdb
import pyarrow as pa
import structlog

from pacs_core.errors import IndexUnavailable, NotIndexable
from pacs_core.index import locks
from pacs_core.index.durability import DataFiles
from pacs_core.index.keys import KeyPlan, plan_keys, read_keys, read_leaving, read_series, write_keys
from pacs_core.index.lake import Engine, attach_lake, open_duckdb
from pacs_core.index.maintenance import Maintenance
from pacs_core.index.postgres import CatalogURL, Session
from pacs_core.index.schema import KEYS, arrow_table, clean, entity_key
from pacs_core.index.texts import TEXTS, texts
from pacs_core.model import UID, InstanceRecord, Level, StoredObject
from pacs_core.ports import CommitResult

log = structlog.get_logger(__name__)

_TERMINATION_TIMEOUT = 10_000  # milliseconds

_KNOWN_ENTITIES = 50_000  # patients, studies and series that this process remembers to be in the lake

_PARENTS = (Level.PATIENT, Level.STUDY, Level.SERIES)

# By level and key, a record of each.
_Entities = Mapping[Level, Mapping[tuple[str, ...], InstanceRecord]]


class LakeIndexWriter:
    """ports.IndexWriter. Thread-safe; several processes and machines may have one each."""

    def __init__(self, catalog_url: str, data_path: str, *, engine: Engine | None = None) -> None:
        """Opens at the first commit. The index must have been prepared (lake.prepare_index)."""
        self._catalog = CatalogURL.parse(catalog_url)
        self._data_path = data_path
        self._engine = engine or Engine()
        self._turn = threading.Lock()
        self._session: Session | None = None
        self._lake: duckdb.DuckDBPyConnection | None = None
        self._name = ""
        self._known = _KnownEntities()
        self.files = DataFiles(data_path)
        self._maintenance = Maintenance(self.files)

    def commit(self, records: Sequence[InstanceRecord]) -> CommitResult:
        """Index all records in one transaction. Idempotent: repeating a batch, whole or in part, changes nothing.

        Superseded objects are reported again when their batch is repeated. A path may be used again for another
        object only after the batch that superseded it is done with for good.
        """
        if not records:
            return CommitResult(inserted=0, repeated=0, superseded=(), conflicting=())
        records = [_cleaned(record) for record in records]
        with self.committing() as (session, lake):
            plan = plan_keys(records, read_keys(session, {record.SOPInstanceUID for record in records}))
            unknown = self._known.unknown(plan.winners.values())
            familiar = read_series(session, {study for level in (Level.STUDY, Level.SERIES) for study, *_ in unknown[level]})
            for held in plan.damaged:
                log.error("stored_object_damaged", SOPInstanceUID=held.SOPInstanceUID, tier=held.tier, sha256=held.sha256)
            if plan.added or plan.changed:
                write_keys(session, plan)
            missing, stale = _compare(lake, plan, plan.unsure | read_leaving(session, plan.winners))
            if missing:
                self._write(lake, missing, stale, unknown, familiar)
            self._maintain(session, lake)
        return CommitResult(
            inserted=len(plan.added) + len(plan.changed),
            repeated=plan.repeated,
            superseded=plan.superseded,
            conflicting=plan.conflicting,
        )

    def mark_verified(self, objects: Iterable[StoredObject], when: datetime) -> None:
        """Set `verified_at` of instances. Idempotent; objects that the index does not, or no longer, name are ignored."""
        read = list(objects)
        with self.committing() as (session, lake):
            with self.files.transaction(lake):
                lake.execute(
                    f"UPDATE lake.instance SET verified_at = ? WHERE (SOPInstanceUID, sha256) IN (SELECT ({TEXTS}, {TEXTS}))",  # noqa: S608 constants
                    [when, texts(clean(each.SOPInstanceUID) for each in read), texts(each.sha256 for each in read)],
                )
            self._maintain(session, lake)

    def flush(self) -> None:
        """Move rows that are still in the catalog to Parquet, and merge small files. Good for idle moments."""
        with self.committing() as (session, lake):
            self._maintenance.run(session, lake)

    def close(self) -> None:
        """Release everything; a later commit opens it again."""
        with self._turn:
            self._disconnect()

    @contextmanager
    def committing(self) -> Iterator[tuple[Session, duckdb.DuckDBPyConnection]]:
        """Be the only committer: the session that holds the keys, and the lake. After any error all connections are made anew.

        What the body writes to the lake goes into a `files.transaction`.
        """
        with self._turn:
            try:
                session = self._lock()
                lake = self._attach()
                self._take_over(session)
                yield session, lake
                session.run("SELECT pg_advisory_unlock(:lock)", lock=locks.COMMIT)
            except (duckdb.DataError, pa.ArrowException) as exc:
                self._disconnect()
                if isinstance(exc, pa.ArrowMemoryError):
                    raise IndexUnavailable("there is not enough memory for a commit") from None
                raise NotIndexable(f"the lake does not take a value ({type(exc).__name__})") from None
            except duckdb.Error as exc:  # not as the cause: its message quotes the statement, and with it patients
                self._disconnect()
                raise IndexUnavailable(f"the index did not take a commit ({type(exc).__name__})") from None
            except OSError as exc:
                self._disconnect()
                raise IndexUnavailable("the index's files cannot be written") from exc
            except BaseException:
                self._disconnect()
                raise

    def _lock(self) -> Session:
        """Wait for our turn among all committers."""
        if self._session is None:
            self._session = Session(self._catalog, application_name="pacs-index")
        self._session.run("SELECT pg_advisory_lock(:lock)", lock=locks.COMMIT)
        return self._session

    def _attach(self) -> duckdb.DuckDBPyConnection:
        """Only under the lock: whoever takes it ends what goes on under other committers' names."""
        if self._lake is None:
            self._name = f"pacs-commit {uuid.uuid4()}"
            self._lake = open_duckdb(self._engine)
            attach_lake(self._lake, self._catalog, self._data_path, application_name=self._name, read_only=False)
        return self._lake

    def _take_over(self, session: Session) -> None:
        """See to it that no earlier committer can still change the lake."""
        if session.run("SELECT 1 FROM pacs.committer WHERE holder = :name", name=self._name):
            return
        self._known = _KnownEntities()  # whoever committed meanwhile may have restored or rebuilt the index
        session.run(
            "SELECT pg_terminate_backend(pid, :patience) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'pacs-commit %' AND application_name <> :name AND state <> 'idle'",
            patience=_TERMINATION_TIMEOUT,
            name=self._name,
        )
        # Waits for a lake commit under the old name that has passed the fence; later ones are refused.
        session.run("UPDATE pacs.committer SET holder = :name", name=self._name)
        self._known = _KnownEntities()  # who was the committer meanwhile may have removed some

    def _write(
        self,
        lake: duckdb.DuckDBPyConnection,
        records: Sequence[InstanceRecord],
        stale: Sequence[UID],
        unknown: _Entities,
        familiar: set[tuple[str, str]],
    ) -> None:
        """One lake transaction: new patients, studies and series, which keep their first form, then the instances."""
        with self.files.transaction(lake):
            if stale:
                lake.execute(f"DELETE FROM lake.instance WHERE SOPInstanceUID IN (SELECT {TEXTS})", [texts(stale)])  # noqa: S608 a constant
            for level, new in _absent(lake, unknown, familiar).items():
                _insert(lake, level, new)
            _insert(lake, Level.IMAGE, records)
        self._known.add((level, key) for level, entities in unknown.items() for key in entities)

    def _maintain(self, session: Session, lake: duckdb.DuckDBPyConnection) -> None:
        """The commit is done; upkeep that fails is tried again after a later one."""
        try:
            self._maintenance.after_commit(session, lake)
        except (duckdb.Error, OSError) as exc:
            # DuckDB's messages quote statements, and with them patients.
            log.warning("index_maintenance_failed", error=type(exc).__name__)
            self._drop_lake()

    def _disconnect(self) -> None:
        self._drop_lake()
        self._known = _KnownEntities()  # the index that answers next may be another, or an older one restored
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _drop_lake(self) -> None:
        lake, self._lake = self._lake, None
        if lake is not None:
            with suppress(duckdb.Error):
                lake.close()


class _KnownEntities:
    """Patients, studies and series that are in the lake for sure: only committers remove any."""

    def __init__(self) -> None:
        self._keys: OrderedDict[tuple[Level, tuple[str, ...]], None] = OrderedDict()

    def unknown(self, records: Iterable[InstanceRecord]) -> _Entities:
        """By level, the entities of records that are not known, each with the first record of it."""
        first_of: dict[Level, dict[tuple[str, ...], InstanceRecord]] = {level: {} for level in _PARENTS}
        for record in records:
            for level in _PARENTS:
                key = entity_key(level, record)
                if (level, key) in self._keys:
                    self._keys.move_to_end((level, key))
                else:
                    first_of[level].setdefault(key, record)
        return first_of

    def add(self, entities: Iterable[tuple[Level, tuple[str, ...]]]) -> None:
        for entity in entities:
            self._keys[entity] = None
        while len(self._keys) > _KNOWN_ENTITIES:
            self._keys.popitem(last=False)


def _compare(lake: duckdb.DuckDBPyConnection, plan: KeyPlan, unsure: frozenset[UID]) -> tuple[list[InstanceRecord], list[UID]]:
    """The winners whose row the lake lacks, and the UIDs whose row there is of an older object, or that have two."""
    found: dict[str, tuple[str, str]] = {}
    if unsure:
        query = f"SELECT SOPInstanceUID, path, sha256 FROM lake.instance WHERE SOPInstanceUID IN (SELECT {TEXTS})"  # noqa: S608 a constant
        for uid, path, sha256 in lake.execute(query, [texts(unsure)]).fetchall():
            found[uid] = ("", "") if uid in found else (path, sha256)
    missing = [record for uid, record in plan.winners.items() if found.get(uid) != (record.path, record.sha256)]
    return missing, [record.SOPInstanceUID for record in missing if record.SOPInstanceUID in found]


def _absent(lake: duckdb.DuckDBPyConnection, entities: _Entities, familiar: set[tuple[str, str]]) -> dict[Level, list[InstanceRecord]]:
    """By level, the records whose entity has no row; the lake is not asked for studies and series that are not familiar."""
    studies = {(study,) for study, _ in familiar}
    asked = {
        Level.PATIENT: entities[Level.PATIENT].keys(),
        Level.STUDY: entities[Level.STUDY].keys() & studies,
        Level.SERIES: entities[Level.SERIES].keys() & familiar,
    }
    present = _present(lake, {level: keys for level, keys in asked.items() if keys})
    absent = {level: [record for key, record in first_of.items() if (level, key) not in present] for level, first_of in entities.items()}
    return {level: records for level, records in absent.items() if records}


def _present(lake: duckdb.DuckDBPyConnection, asked: Mapping[Level, Iterable[tuple[str, ...]]]) -> set[tuple[Level, tuple[str, ...]]]:
    """Which entities have a row. One statement for all levels: most of what one takes is its planning."""
    if not asked:
        return set()
    parts, parameters = [], []
    for level, entities in asked.items():
        keywords, narrow = KEYS[level], level.key
        position = keywords.index(narrow)
        parts.append(f"SELECT '{level}', [{', '.join(keywords)}] FROM lake.{level.table} WHERE {narrow} IN (SELECT {TEXTS})")  # noqa: S608 constants
        parameters.append(texts({key[position] for key in entities}))
    return {(Level(level), tuple(key)) for level, key in lake.execute(" UNION ALL ".join(parts), parameters).fetchall()}


def _insert(lake: duckdb.DuckDBPyConnection, level: Level, records: Sequence[InstanceRecord]) -> None:
    lake.register("incoming", arrow_table(level, records))
    lake.execute(f"INSERT INTO lake.{level.table} BY NAME SELECT * FROM incoming")  # noqa: S608 a constant
    lake.unregister("incoming")


def _cleaned(record: InstanceRecord) -> InstanceRecord:
    """The record with its UIDs as the index can hold them; nearly always the record itself."""
    uids = (record.SOPInstanceUID, record.SOPClassUID, record.TransferSyntaxUID, record.SeriesInstanceUID, record.StudyInstanceUID)
    if all(clean(uid) == uid for uid in uids):
        return record
    instance, sop_class, transfer_syntax, series, study = (UID(clean(uid)) for uid in uids)
    return replace(
        record,
        SOPInstanceUID=instance,
        SOPClassUID=sop_class,
        TransferSyntaxUID=transfer_syntax,
        SeriesInstanceUID=series,
        StudyInstanceUID=study,
    )
