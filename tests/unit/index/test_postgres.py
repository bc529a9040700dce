import gc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pacs_core.errors import ConfigurationError, IndexUnavailable
from pacs_core.index.postgres import CatalogURL, Database, Row, Session
from tests.support.catalog import Catalogs
from tests.unit.index.conftest import Place, kill_postgres


def test_a_url_names_a_host_or_the_directory_of_a_socket() -> None:
    remote = CatalogURL.parse("postgresql://me:p%40ss@db.example.org:5433/pacs?sslmode=require")
    assert (remote.host, remote.port, remote.database, remote.user, remote.password) == ("db.example.org", 5433, "pacs", "me", "p@ss")
    local = CatalogURL.parse("postgresql://postgres@/pacs?host=%2Fsrv%2Frun%20me")
    assert (local.host, local.user, local.password) == ("/srv/run me", "postgres", "")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://me@host/db",
        "postgresql://me:s3cret@host",
        "postgresql://me:s3cret@host:port/db",
        "postgresql://me:s3cret@/db?nonsense=1",
        "postgresql://me:s3cret@/db?sslmode=maybe",
    ],
)
def test_a_wrong_url_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="catalog_url") as raised:
        CatalogURL.parse(url)
    assert "s3cret" not in str(raised.value)


def test_the_connection_string_is_quoted_and_has_no_password() -> None:
    url = CatalogURL("/srv/it's\\here", 5432, "pacs", "me", "s3cret")
    text = url.libpq(application_name="a b")
    assert r"host='/srv/it\'s\\here'" in text
    assert "application_name='a b'" in text
    assert "s3cret" not in text + repr(url)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    for address in ("127.0.0.1:1/x", "/x?host=/nowhere"):
        with pytest.raises(IndexUnavailable):
            Session(CatalogURL.parse(f"postgresql://nobody@{address}"), application_name="test")
    gc.collect()  # a socket left open would warn


def test_a_transaction_commits_or_rolls_back_as_a_whole(database: Database) -> None:
    insert = "INSERT INTO pacs.peer VALUES (:name, 'host', 104)"
    with database.transaction() as session:
        session.run(insert, name="A")
    with pytest.raises(IndexUnavailable), database.transaction() as session:  # noqa: PT012 the second statement fails
        session.run(insert, name="B")
        session.run("SELECT nonsense")
    with database.transaction() as session:
        assert session.run("SELECT ae_title FROM pacs.peer") == [["A"]]


def test_many_threads_share_a_database(database: Database) -> None:
    def one(_: int) -> int:
        with database.transaction() as session:
            return int(session.run("SELECT 1")[0][0])

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(one, range(60))) == 60


def test_idle_sessions_that_died_with_the_server_are_replaced_unnoticed(new_place: Callable[[], Place], catalogs: Catalogs) -> None:
    database = Database(new_place().catalog_url)
    with database.transaction() as one, database.transaction() as two:
        assert one.run("SELECT 1") == two.run("SELECT 1")
    kill_postgres(catalogs)
    with pytest.raises(IndexUnavailable), database.transaction():
        pass
    catalogs.start()
    with database.transaction() as session:
        assert session.run("SELECT 1") == [[1]]
    database.close()


def test_a_fresh_session_that_cannot_begin_is_closed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Session] = []
    run, close = Session.run, Session.close

    def cannot_begin(self: Session, sql: str, **parameters: object) -> Sequence[Row]:
        return run(self, "SELECT nonsense" if sql == "BEGIN" else sql, **parameters)

    def spy(self: Session) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(Session, "run", cannot_begin)
    monkeypatch.setattr(Session, "close", spy)
    with pytest.raises(IndexUnavailable), database.transaction():
        pass
    assert len(closed) == 1
