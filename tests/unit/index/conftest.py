"""A real PostgreSQL for the index's tests, and an empty index in a database of its own for each test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest

from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.lake import LakeReader
from pacs_core.index.postgres import Database
from pacs_core.index.reader import LakeIndexReader
from tests.support.catalog import Catalogs


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index is."""

    catalog_url: str
    data_path: str


@pytest.fixture(scope="session")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogs]:
    server = Catalogs(tmp_path_factory.mktemp("postgres"), hasty=True)
    server.start()
    yield server
    server.stop()


def kill_postgres(catalogs: Catalogs) -> None:
    """Kill the server and wait for its backends: a new one does not start before the last of them is gone."""
    assert catalogs._process is not None
    backends = psutil.Process(catalogs._process.pid).children()
    catalogs.kill()
    _, alive = psutil.wait_procs(backends, timeout=30)
    assert not alive


@pytest.fixture(scope="session")
def new_place(catalogs: Catalogs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
    """Makes empty, prepared indexes."""

    def make() -> Place:
        return Place(catalogs.prepared(), str(tmp_path_factory.mktemp("index")))

    return make


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()


@pytest.fixture
def writer(place: Place) -> Iterator[LakeIndexWriter]:
    writer = LakeIndexWriter(place.catalog_url, place.data_path)
    yield writer
    writer.close()


@pytest.fixture
def reader(place: Place) -> Iterator[LakeIndexReader]:
    reader = LakeIndexReader(LakeReader(place.catalog_url, place.data_path), Database(place.catalog_url))
    yield reader
    reader.close()


@pytest.fixture
def database(place: Place) -> Iterator[Database]:
    database = Database(place.catalog_url)
    yield database
    database.close()
