"""The embedded PostgreSQL, for real, and the URLs that lead to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_core.errors import ConfigurationError
from pacs_core.settings import load_settings
from pacs_core.supervisor.postgres import (
    EmbeddedPostgres,
    accepts_connections,
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
