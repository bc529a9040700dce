"""The embedded PostgreSQL, for real, and the URLs that lead to it."""

import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_core.errors import ConfigurationError, IndexUnavailable
from pacs_core.settings import load_settings
from pacs_core.supervisor import postgres
from pacs_core.supervisor.postgres import (
    EmbeddedPostgres,
    accepts_connections,
    binary,
    catalog_url,
    create_database,
    prefect_url,
    socket_directory,
)
from tests.support.catalog import Catalogs


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogs]:
    running = Catalogs(tmp_path_factory.mktemp("pg"))
    running.start()
    yield running
    running.stop()


def test_the_socket_is_below_the_home() -> None:
    assert socket_directory(Path("/srv/pacs")) == Path("/srv/pacs/run/pg")


def test_a_home_too_deep_for_a_socket_gets_a_short_directory_of_its_own() -> None:
    deep, deeper = Path("/srv/" + "x" * 100), Path("/srv/" + "x" * 101)
    for home in (deep, deeper):
        assert len(f"{socket_directory(home)}/.s.PGSQL.5432") <= 107
    assert socket_directory(deep) == socket_directory(deep)
    assert socket_directory(deep) != socket_directory(deeper)


def test_the_catalog_is_the_embedded_one_unless_a_setting_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert catalog_url(load_settings(tmp_path)) == f"postgresql://postgres@/pacs?host={socket_directory(tmp_path)}"
    monkeypatch.setenv("PACS_CATALOG_URL", "postgresql://u:p@db:5433/radiology")
    assert catalog_url(load_settings(tmp_path)) == "postgresql://u:p@db:5433/radiology"


@pytest.mark.parametrize(
    ("catalog", "prefect"),
    [
        ("postgresql://u:p@db:5433/pacs", "postgresql+asyncpg://u:p@db:5433/prefect"),
        ("postgresql://u:p@db/radiology?sslmode=require", "postgresql+asyncpg://u:p@db/radiology_prefect?sslmode=require"),
        ("postgresql://u@/pacs?host=/run/pg", "postgresql+asyncpg://u:@/prefect?host=/run/pg"),
    ],
)
def test_prefect_has_a_database_beside_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalog: str, prefect: str) -> None:
    monkeypatch.setenv("PACS_CATALOG_URL", catalog)
    assert prefect_url(load_settings(tmp_path)) == prefect


def test_databases_are_made_once_whatever_their_name(server: Catalogs) -> None:
    url = server.new()
    assert create_database(url, "an odd'name")
    assert create_database(url, "an odd'name")


def test_nobody_else_can_reach_the_socket(server: Catalogs) -> None:
    directory = Path(server.new().partition("host=")[2])
    assert directory.stat().st_mode & 0o077 == 0


def test_a_killed_server_recovers(server: Catalogs) -> None:
    url = server.new()
    server.kill()
    assert not accepts_connections(url)
    server.start()
    assert accepts_connections(url)


def test_a_half_made_cluster_is_made_anew(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", tmp_path / "socket")
    server.data_dir.mkdir()
    (server.data_dir / "PG_VERSION").write_text("18\n")
    (tmp_path / "postgres.initialising").touch()
    server.initialise()
    assert (server.data_dir / "global").is_dir()
    assert not (tmp_path / "postgres.initialising").exists()


def test_what_is_no_cluster_is_left_alone(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", tmp_path / "socket")
    server.data_dir.mkdir()
    (server.data_dir / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="initdb"):
        server.initialise()
    assert (server.data_dir / "thesis.txt").read_text() == "mine"


def test_a_stale_pid_file_is_no_running_server(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", tmp_path / "socket")
    server.data_dir.mkdir()
    (server.data_dir / "postmaster.pid").write_text("1\n/elsewhere\n")
    assert server.running_pid() is None
    server.stop()


def test_a_cluster_that_was_used_is_never_removed(tmp_path: Path) -> None:
    """The mark of a half-made cluster may come back with a power failure."""
    running = Catalogs(tmp_path)
    running.start()
    url = running.new()
    running.stop()
    (tmp_path / "data.initialising").touch()
    running.start()
    try:
        assert "catalog_1" in databases(url)
    finally:
        running.stop()
    assert not (tmp_path / "data.initialising").exists()


def test_the_mark_of_a_half_made_cluster_is_durable_before_initdb_and_gone_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", tmp_path / "socket")
    synced: list[bool] = []
    monkeypatch.setattr(postgres, "fsync_directory", lambda _: synced.append((tmp_path / "postgres.initialising").exists()))
    monkeypatch.setattr(EmbeddedPostgres, "_initdb", lambda _: synced.append(True))
    server.initialise()
    assert synced == [True, True, False]


def test_a_server_that_leaves_a_request_unanswered_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "psql"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(postgres, "binary", lambda _: str(silent))
    monkeypatch.setattr(postgres, "_PSQL_PATIENCE", 0.1)
    with pytest.raises(IndexUnavailable, match=r"0\.1 s") as caught:
        create_database("postgresql://u:p@db/pacs", "pacs")
    assert "u:p@db" not in "".join(traceback.format_exception(caught.value, limit=0))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO patient VALUES ('DOE^JANE')",  # a duplicate: the detail quotes the key
        "SELECT 'DOE^JANE'::date",  # the message itself quotes the value
        "SELECT DOE^JANE FROM nowhere",
        "SELECT pg_terminate_backend(pg_backend_pid()), 'DOE^JANE'",
    ],
)
def test_a_failed_statement_leaves_no_name_in_the_log(server: Catalogs, statement: str) -> None:
    url = server.new()
    run_sql(url, "CREATE TABLE patient (name text PRIMARY KEY); INSERT INTO patient VALUES ('DOE^JANE')")
    assert run_sql(url, statement).returncode != 0
    log = (Path(url.partition("host=")[2]).parent / "postgres.log").read_text()
    assert "ready to accept connections" in log
    assert "doe" not in log.lower()


def run_sql(url: str, statement: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([binary("psql"), "-Atqc", statement, url], capture_output=True, text=True, check=False)


def databases(url: str) -> list[str]:
    return run_sql(url, "SELECT datname FROM pg_database").stdout.split()
