"""Millions of rows in an index, fast: one real instance is stored, and the rows that it made are multiplied in SQL.

So every column, header and key has the form that the archive gives it; what differs is UIDs, patients, numbers and digests.
The rows lie in files of 5 MB, the size at which merging leaves them alone. UIDs are random, so that no file can be passed over for its
lowest and highest value. There are no objects behind the rows.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import duckdb
from pydicom import Dataset

from bench.peers import settle
from bench.storing import store
from bench.wire import STUDY_ROOT_FIND, connected, find_request
from pacs_core.index.lake import Engine, attach_lake, literal, open_duckdb
from pacs_core.index.postgres import CatalogURL, Session
from pacs_core.model import StoredObject
from tests.support.archive import Listener
from tests.support.synthetic import Study

_PER_SERIES, _PER_STUDY, _PER_PATIENT = 50, 200, 400
_ROWS_PER_FILE = 25_000

# Two halves: DuckDB turns numbers of 128 bits into text ten thousand times more slowly.
_UID = "CREATE TEMP MACRO uid(kind, n) AS concat('2.25.', md5_number_upper(concat(kind, n)), md5_number_lower(concat(kind, n)))"
_PATIENTS = """
    INSERT INTO lake.patient BY NAME
    SELECT t.* REPLACE (concat('P', n) AS PatientID, replace(t.header, t.PatientID, concat('P', n)) AS header)
    FROM template_patient t, range(?, ?) r(n)
"""
_STUDIES = f"""
    INSERT INTO lake.study BY NAME
    SELECT t.* REPLACE (
        concat('P', n // {_PER_PATIENT // _PER_STUDY}) AS PatientID,
        uid('study', n) AS StudyInstanceUID,
        replace(t.header, t.StudyInstanceUID, uid('study', n)) AS header
    ) FROM template_study t, range(?, ?) r(n)
"""  # noqa: S608 constants
_SERIES = f"""
    INSERT INTO lake.series BY NAME
    SELECT t.* REPLACE (
        uid('study', n // {_PER_STUDY // _PER_SERIES}) AS StudyInstanceUID,
        uid('series', n) AS SeriesInstanceUID,
        n % {_PER_STUDY // _PER_SERIES} + 1 AS SeriesNumber,
        replace(t.header, t.SeriesInstanceUID, uid('series', n)) AS header
    ) FROM template_series t, range(?, ?) r(n)
"""  # noqa: S608 constants
_INSTANCES = f"""
    INSERT INTO lake.instance BY NAME
    SELECT t.* REPLACE (
        uid('study', n // {_PER_STUDY}) AS StudyInstanceUID,
        uid('series', n // {_PER_SERIES}) AS SeriesInstanceUID,
        uid('instance', n) AS SOPInstanceUID,
        n % {_PER_SERIES} + 1 AS InstanceNumber,
        concat(uid('study', n // {_PER_STUDY}), '/', uid('series', n // {_PER_SERIES}), '/', uid('instance', n), '.dcm') AS path,
        sha256(uid('instance', n)) AS sha256,
        replace(t.header, t.SOPInstanceUID, uid('instance', n)) AS header
    ) FROM template_instance t, range(?, ?) r(n)
"""  # noqa: S608 constants
_KEY_COLUMNS = ", ".join(f'"{name}"' for name in (*StoredObject.__dataclass_fields__, "received_at", "InstanceNumber"))
_KEYS = f"""
    INSERT INTO operational.pacs.instance_key ({_KEY_COLUMNS})
    SELECT {_KEY_COLUMNS} FROM lake.instance WHERE SOPInstanceUID NOT IN (SELECT SOPInstanceUID FROM template_instance)
"""  # noqa: S608 constants
_TABLES = ("patient", "study", "series", "instance", "instance_key")
_COUNTS = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in _TABLES)  # noqa: S608 constants


def fill(archive: Listener, instances: int, source: Path) -> str:
    """Put that many instances with their series, studies and patients into an empty archive; what it holds then, in words.

    SystemExit if they are not all there, for `pacs sql` and for C-FIND.
    """
    Study("CT").write(source)
    store(archive.scp, [source])
    settle(archive)
    with _writable(archive) as lake:
        for table in ("patient", "study", "series", "instance"):
            lake.execute(f"CREATE TEMP TABLE template_{table} AS FROM lake.{table}")
        _multiply(lake, _PATIENTS, instances // _PER_PATIENT)
        _multiply(lake, _STUDIES, instances // _PER_STUDY)
        _multiply(lake, _SERIES, instances // _PER_SERIES)
        _multiply(lake, _INSTANCES, instances)
        lake.execute(_KEYS)
        (middle,) = lake.execute("SELECT uid('instance', ?)", [instances // 2]).fetchall()[0]
    _tidy(archive)
    _check_found(archive, middle)
    return _checked_counts(archive, instances)


@contextmanager
def _writable(archive: Listener) -> Iterator[duckdb.DuckDBPyConnection]:
    """The archive's lake, and its PostgreSQL as `operational`. Nobody else may commit meanwhile."""
    catalog = CatalogURL.parse(archive.env["PACS_CATALOG_URL"])
    with closing(open_duckdb(Engine())) as connection:
        attach_lake(connection, catalog, str(archive.home / "index"), application_name="bench-fill", read_only=False)
        connection.execute(f"ATTACH {literal(catalog.libpq(application_name='bench-fill'))} AS operational (TYPE postgres)")
        connection.execute(_UID)
        yield connection


def _multiply(lake: duckdb.DuckDBPyConnection, insert: str, rows: int) -> None:
    for first, end in pairwise([*range(0, rows, _ROWS_PER_FILE), rows]):
        lake.execute(insert, [first, end])


def _tidy(archive: Listener) -> None:
    """Have PostgreSQL do now what so many new rows would make it do during the measurement."""
    with closing(Session(CatalogURL.parse(archive.env["PACS_CATALOG_URL"]), application_name="bench-fill", timeout=600)) as session:
        session.run("VACUUM ANALYZE pacs.instance_key")
        session.run("CHECKPOINT")


def _checked_counts(archive: Listener, instances: int) -> str:
    counts = archive.sql(f"SELECT {_COUNTS}")[0]
    if not counts["instance"] == counts["instance_key"] == instances + 1:
        raise SystemExit(f"{instances} rows were to be put into the index, and it holds {counts}")
    return ", ".join(f"{count:,} {table}" for table, count in counts.items())


def _check_found(archive: Listener, instance: str) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.SOPInstanceUID = "IMAGE", instance
    with connected(archive.scp, STUDY_ROOT_FIND) as client:
        client.send(find_request(identifier))
        if instance.encode() not in client.receive().data:
            raise SystemExit(f"C-FIND does not show {instance}")
