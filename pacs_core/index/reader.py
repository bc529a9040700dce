"""Answers from the index: C-FIND, retrieve, the counts of `pacs status` and the plan of the verify flow."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from pacs_core.index import keys
from pacs_core.index.lake import LakeReader
from pacs_core.index.postgres import Database
from pacs_core.index.query import FindStatement, compile_find, parse_named
from pacs_core.index.texts import TEXTS, texts
from pacs_core.model import UID, Header, Query, StoredObject, StudyFacts


@dataclass(frozen=True, slots=True)
class TierCounts:
    """What a tier holds."""

    instances: int
    bytes: int


@dataclass(frozen=True, slots=True)
class IndexCounts:
    """What the index holds."""

    patients: int
    studies: int
    series: int
    instances: int
    tiers: Mapping[str, TierCounts]


@dataclass(frozen=True, slots=True)
class Shard:
    """Whole studies, with what the lake has of them."""

    studies: tuple[UID, ...]
    instances: int
    bytes: int


class LakeIndexReader:
    """ports.IndexReader, and what the flows ask. Thread-safe; each call sees one snapshot.

    Args:
        lake: answers questions about patients, studies and series.
        database: tells where instances are: 1 ms for a study of 200, of which the lake makes 20.
    """

    def __init__(self, lake: LakeReader, database: Database) -> None:
        self._lake = lake
        self._database = database

    def find(self, query: Query) -> Iterator[Header]:
        """The matching entities (see ports.IndexReader.find). The query is checked here and runs at the first `next`."""
        return self._find(compile_find(query))

    def _find(self, statement: FindStatement) -> Iterator[Header]:
        for row in self._lake.rows(statement.sql, statement.parameters):
            header = _merged(statement, row)
            if all(criterion.satisfied_by(header) for criterion in statement.criteria):
                yield header

    def locate(self, query: Query) -> Sequence[StoredObject]:
        """The instances below the entities that the query's unique keys name (see query.parse_named), by study, series and number."""
        named = parse_named(query)
        self._lake.await_prepared()
        studies = self._studies_of(*named.patient, named.studies) if named.patient[0] else named.studies
        if named.patient[0] and not studies:
            return ()
        with self._database.transaction() as session:
            return keys.locate(session, studies=studies, series=named.series, instances=named.instances)

    def _studies_of(self, patient: str, issuer: str, among: Sequence[str]) -> tuple[str, ...]:
        """The studies of a patient, of any issuer if that is "", and of any UID if there are none to choose from."""
        rows = self._lake.rows(_STUDIES_OF_PATIENT, (patient, issuer, issuer))
        return tuple(study for (study,) in rows if not among or study in among)

    def counts(self) -> IndexCounts:
        """How much is indexed."""
        rows = list(self._lake.rows(_COUNTS))
        patients, studies, series, *_ = rows[0]
        tiers = {tier: TierCounts(instances, size) for _, _, _, tier, instances, size in rows if tier is not None}
        return IndexCounts(patients, studies, series, sum(tier.instances for tier in tiers.values()), tiers)

    def shards(self, *, max_instances: int, max_bytes: int, percent: float = 100) -> Sequence[Shard]:
        """Everything held, or that share of its bytes that was longest not verified, cut between studies.

        After it, in the same way, studies of which nothing is held any more and copies are kept, or objects in quarantine; those only with
        everything else. A study that exceeds a limit alone is a shard of its own.
        """
        with self._database.transaction() as session:
            kept = session.run(_KEPT_SIZES, quarantined=percent >= _EVERYTHING)
        shards: list[Shard] = []
        for study, instances, size in (*_share(list(self._lake.rows(_STUDY_SIZES)), percent), *_share(kept, percent)):
            last = shards[-1] if shards else None
            if last and last.instances + instances <= max_instances and last.bytes + size <= max_bytes:
                shards[-1] = Shard((*last.studies, study), last.instances + instances, last.bytes + size)
            else:
                shards.append(Shard((study,), instances, size))
        return shards

    def study_facts(self, tier: str, *, study: str = "") -> Sequence[StudyFacts]:
        """What rules ask of the studies that have instances on a tier, or of one of them. In no particular order."""
        rows = self._lake.rows(
            _STUDY_FACTS.format(condition="AND StudyInstanceUID = ?" if study else ""), (tier, *([study] if study else ()))
        )
        with self._database.transaction() as session:
            used = dict[str, datetime](session.run(_USED, study=study))
            on_hold = {each for (each,) in session.run(_ON_HOLD, study=study)}
        return [
            StudyFacts(
                StudyInstanceUID=UID(uid),
                tier=tier,
                instances=instances,
                bytes=size,
                received_at=received_at,
                used_at=max(received_at, used.get(uid, received_at)),
                modalities=tuple(modalities or ()),
                on_hold=uid in on_hold,
            )
            for uid, instances, size, received_at, modalities in rows
        ]

    def stored_objects(self, studies: Sequence[UID] | None = None) -> Iterator[StoredObject]:
        """The instances of some studies, or all, streamed, in no particular order."""
        if studies is None:
            return (StoredObject(*row) for row in self._lake.rows(_OBJECTS))
        condition = f" WHERE StudyInstanceUID IN (SELECT {TEXTS})"
        return (StoredObject(*row) for row in self._lake.rows(_OBJECTS + condition, (texts(studies),)))

    def close(self) -> None:
        """Release the lake. A later call opens it again."""
        self._lake.close()
        self._database.close()


_STUDIES_OF_PATIENT = "SELECT StudyInstanceUID FROM lake.study WHERE PatientID = ? AND (IssuerOfPatientID = ? OR ? = '')"
_OBJECTS = f"SELECT {', '.join(keys.OBJECT_COLUMNS)} FROM lake.instance"  # noqa: S608 constants
_STUDY_SIZES = """
    SELECT StudyInstanceUID, count(*), sum(size)::BIGINT FROM lake.instance GROUP BY StudyInstanceUID
    ORDER BY min(coalesce(verified_at, TIMESTAMPTZ '1970-01-01')), StudyInstanceUID
"""
_KEPT_SIZES = """
    SELECT "StudyInstanceUID", count(*), sum(size)::bigint FROM (
        SELECT "StudyInstanceUID", size, coalesce(verified_at, since) AS good_at FROM pacs.instance_copy WHERE state = 'held'
        UNION ALL
        SELECT "StudyInstanceUID", size, removed_at FROM pacs.removed_instance WHERE state = 'quarantined' AND :quarantined
    ) AS kept
    WHERE NOT EXISTS (SELECT 1 FROM pacs.instance_key AS held WHERE held."StudyInstanceUID" = kept."StudyInstanceUID")
    GROUP BY 1 ORDER BY min(good_at), 1
"""
_EVERYTHING = 100.0
_STUDY_FACTS = """
    SELECT held.*, modalities
    FROM (
        SELECT StudyInstanceUID, count(*), sum(size)::BIGINT, max(received_at) FROM lake.instance WHERE tier = ? {condition}
        GROUP BY StudyInstanceUID
    ) held
    LEFT JOIN (SELECT StudyInstanceUID, list(DISTINCT Modality) AS modalities FROM lake.series GROUP BY StudyInstanceUID)
        USING (StudyInstanceUID)
"""
_USED = """SELECT "StudyInstanceUID", accessed_at FROM pacs.study_access WHERE :study IN ('', "StudyInstanceUID")"""
_ON_HOLD = """
    SELECT "StudyInstanceUID" FROM pacs.hold WHERE (until IS NULL OR until > now()) AND :study IN ('', "StudyInstanceUID")
"""
_COUNTS = """
    SELECT (SELECT count(*) FROM lake.patient), (SELECT count(*) FROM lake.study), (SELECT count(*) FROM lake.series), i.*
    FROM (SELECT 1) LEFT JOIN (SELECT tier, count(*), sum(size)::BIGINT FROM lake.instance GROUP BY tier ORDER BY tier) i ON true
"""


def _share(sizes: Sequence[Sequence[Any]], percent: float) -> Iterator[Sequence[Any]]:
    """The first rows, with so much of all bytes."""
    left = percent / 100 * sum(row[-1] for row in sizes)
    for row in sizes:
        if left <= 0:
            return
        left -= row[-1]
        yield row


def _merged(statement: FindStatement, row: tuple[Any, ...]) -> Header:
    headers = (json.loads(text) for text in row[: len(statement.levels)])
    header: Header = dict(chain.from_iterable(header.items() for header in headers))
    for keyword, value in zip(statement.computed, row[len(statement.levels) :], strict=True):
        header[keyword] = "" if value is None else str(value)
    return header
