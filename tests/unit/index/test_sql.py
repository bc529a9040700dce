"""What a read-only session answers, and everything it must refuse."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pacs_core.errors import IndexUnavailable
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.sql import InvalidSQL, SQLSession
from tests.support.catalog import Catalogs
from tests.support.records import record
from tests.unit.index.conftest import Place, kill_postgres


@pytest.fixture(scope="module")
def archive(new_place: Callable[[], Place]) -> Place:
    place = new_place()
    writer = LakeIndexWriter(place.catalog_url, place.data_path)
    writer.commit([record(1), record(2)])
    writer.flush()
    writer.close()
    return place


@pytest.fixture(scope="module")
def session(archive: Place) -> Iterator[SQLSession]:
    with SQLSession(archive.catalog_url, archive.data_path) as session:
        yield session


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT StudyInstanceUID FROM study",
        "FROM instance LIMIT 1",
        "SELECT count(*) FROM flow_run",
        "SELECT count(*) FROM ops.peer",
        "DESCRIBE study",
        "SHOW TABLES",
        "SUMMARIZE series",
        "EXPLAIN ANALYZE SELECT * FROM study",
        "WITH a AS (SELECT 1 AS x) SELECT x FROM a, range(2)",
        "SELECT count(*) FROM study AT (TIMESTAMP => now())",
        "SELECT * FROM ducklake_snapshots('lake')",
        "VALUES (1)",
        "SELECT 1;",
    ],
)
def test_reading_works(session: SQLSession, sql: str) -> None:
    assert list(session.run(sql).rows())


def test_a_result_is_rows_or_an_arrow_table(session: SQLSession) -> None:
    sql = "SELECT SOPInstanceUID, size, received_at FROM instance ORDER BY 1"
    result = session.run(sql)
    assert result.columns == ("SOPInstanceUID", "size", "received_at")
    assert [row[:2] for row in result.rows()] == [("1.1.1.1", 1000), ("1.1.1.2", 1000)]
    assert session.run(sql).table().num_rows == 2


def test_a_result_without_rows_has_columns(session: SQLSession) -> None:
    result = session.run("SELECT PatientID FROM patient WHERE false")
    assert result.columns == ("PatientID",)
    assert result.table().num_rows == 0


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nothing", "SELECT 'a'::INT", "", "-- nothing", "SELECT 1; SELECT 2"])
def test_a_mistake_is_the_authors_and_leaves_the_session_usable(session: SQLSession, sql: str) -> None:
    with pytest.raises(InvalidSQL):
        list(session.run(sql).rows())
    assert list(session.run("SELECT 1").rows()) == [(1,)]


def test_a_mistake_in_the_millionth_row_is_one_too(session: SQLSession) -> None:
    with pytest.raises(InvalidSQL):
        list(session.run("SELECT CASE WHEN i = 900000 THEN 'a'::INT END FROM range(1000000) t(i)").rows())


ESCAPES = [
    "DELETE FROM instance",
    "UPDATE lake.study SET StudyID = 'x'",
    "INSERT INTO patient (PatientID) VALUES ('x')",
    "CREATE TABLE lake.evil (i INT)",
    "CREATE TABLE ops.evil (i INT)",
    "CREATE TABLE memory.main.evil (i INT)",
    "CREATE MACRO evil() AS TABLE SELECT * FROM postgres_query('ops', 'SELECT 1')",
    "DROP TABLE instance",
    "ALTER TABLE study ADD COLUMN evil INT",
    "TRUNCATE instance",
    "MERGE INTO study USING (SELECT 1 AS i) s ON false WHEN NOT MATCHED THEN INSERT (StudyID) VALUES ('x')",
    "WITH gone AS (DELETE FROM instance RETURNING 1) SELECT * FROM gone",
    "EXPLAIN ANALYZE DELETE FROM instance",
    "/* a comment */ EXPLAIN ANALYZE DELETE FROM instance",
    "EXPLAIN EXPLAIN ANALYZE DELETE FROM instance",
    "COPY (SELECT 1) TO '{data}/evil.csv'",
    "COPY (SELECT 1) TO '/tmp/pacs-evil.csv'",
    "COPY patient FROM '/etc/passwd'",
    "EXPORT DATABASE '{data}/evil'",
    "IMPORT DATABASE '{data}/evil'",
    "ATTACH '/tmp/pacs-evil.db' AS evil",
    "ATTACH 'dbname=postgres' AS evil (TYPE postgres)",
    "DETACH lake",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET enable_external_access",
    "PRAGMA enable_external_access = true",
    "PRAGMA enable_profiling = 'json'",
    "SET VARIABLE x = 1",
    "CREATE SECRET (TYPE postgres)",
    "CALL postgres_execute('ops', 'CREATE TABLE evil (i INT)')",
    "CALL ducklake_expire_snapshots('lake', older_than => now())",
    "CALL ducklake_merge_adjacent_files('lake')",
    "CALL lake.set_option('data_inlining_row_limit', 0)",
    "CALL enable_logging()",
    "PREPARE evil AS DELETE FROM instance",
    "EXECUTE evil",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "SELECT * FROM postgres_query('ops', 'SELECT 1')",
    "SELECT * FROM POSTGRES_QUERY('ops', 'SELECT pg_read_file(''/etc/passwd'')')",
    "SELECT * FROM \"postgres_query\"('ops', 'SELECT 1')",
    "SELECT * FROM system.main.postgres_query('__ducklake_metadata_lake', 'SELECT 1')",
    "SELECT * FROM postgres_scan('dbname=postgres', 'pg_catalog', 'pg_authid')",
    "SELECT (SELECT count(*) FROM postgres_query('ops', 'SELECT 1'))",
    "SELECT * FROM study WHERE EXISTS (FROM postgres_query('ops', 'SELECT 1'))",
    "SELECT * FROM study, LATERAL (SELECT * FROM postgres_query('ops', 'SELECT 1'))",
    "WITH x AS MATERIALIZED (FROM postgres_query('ops', 'SELECT 1')) FROM x",
    "WITH RECURSIVE x AS (SELECT 1 UNION ALL FROM postgres_query('ops', 'SELECT 1')) FROM x",
    "DESCRIBE SELECT * FROM postgres_query('ops', 'SELECT 1')",
    "SUMMARIZE FROM postgres_query('ops', 'SELECT 1')",
    "VALUES ((SELECT count(*) FROM postgres_query('ops', 'SELECT 1')))",
    "SELECT * FROM query('FROM postgres_query(''ops'', ''SELECT 1'')')",
    "SELECT * FROM query_table('study')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "PRAGMA json_execute_serialized_sql('x')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_blob('{data}/**')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM '/etc/passwd.csv'",
    "SELECT * FROM '{data}/../../secret.parquet'",
    "SELECT * FROM 'https://example.org/x.parquet'",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM arrow_scan(1::POINTER, 2::POINTER, 3::POINTER)",
    "SELECT * FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "SELECT * FROM ducklake_flush_inlined_data('lake')",
    "SELECT * FROM __ducklake_metadata_lake.pg_catalog.pg_shadow",
    "SELECT * FROM __DUCKLAKE_METADATA_LAKE.lake.ducklake_snapshot",
    "SELECT * FROM ops.pg_catalog.pg_authid",
    "SELECT * FROM archive",
    "SELECT getenv('HOME')",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_nothing_gets_out_of_a_session(session: SQLSession, archive: Place, escape: str) -> None:
    with pytest.raises(InvalidSQL):
        list(session.run(escape.replace("{data}", archive.data_path)).rows())


def test_after_all_attempts_everything_is_as_it_was(session: SQLSession, archive: Place) -> None:
    for escape in ESCAPES:
        with pytest.raises(InvalidSQL):
            list(session.run(escape.replace("{data}", archive.data_path)).rows())
    assert list(session.run("SELECT count(*) FROM instance").rows()) == [(2,)]
    assert not list(Path(archive.data_path).rglob("*evil*"))


def test_the_layers_below_the_check_are_read_only_too(session: SQLSession) -> None:
    """As if the check of statements had let something pass."""
    session.run("SELECT 1")
    connection = session._connection
    assert connection is not None
    for statement in (
        "DELETE FROM lake.instance",
        "CREATE TABLE ops.evil (i INT)",
        "CALL postgres_execute('ops', 'CREATE TABLE public.evil (i INT)')",
        "CALL postgres_execute('__ducklake_metadata_lake', 'CREATE TABLE public.evil (i INT)')",
        "COPY (SELECT 1) TO '/tmp/pacs-evil.csv'",
        "SET lock_configuration = false",
    ):
        with pytest.raises(Exception, match=r"(?i)read-only|disabled by configuration|locked"):
            connection.execute(statement)


def test_the_password_is_shown_nowhere(archive: Place) -> None:
    with SQLSession(archive.catalog_url.replace("postgres@", "postgres:s3cret@"), archive.data_path) as session:
        for sql in ("PRAGMA database_list", "SHOW ALL TABLES", "SHOW DATABASES"):
            assert "s3cret" not in str(list(session.run(sql).rows()))


def test_a_session_survives_the_death_of_postgres(archive: Place, catalogs: Catalogs) -> None:
    with SQLSession(archive.catalog_url, archive.data_path) as session:
        session.run("SELECT 1")
        kill_postgres(catalogs)
        with pytest.raises(IndexUnavailable):
            session.run("SELECT count(*) FROM instance").table()
        catalogs.start()
        assert list(session.run("SELECT count(*) FROM instance").rows()) == [(2,)]
