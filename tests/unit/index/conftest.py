"""A real PostgreSQL for the index's tests, and an empty index in a database of its own for each test."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pacs_core.index.lake import prepare_index
from tests.support.catalog import Catalogs


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index is."""

    catalog_url: str
    data_path: str


@pytest.fixture(scope="session")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogs]:
    server = Catalogs(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def new_place(catalogs: Catalogs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
    """Makes empty, prepared indexes."""

    def make() -> Place:
        place = Place(catalogs.new(), str(tmp_path_factory.mktemp("index")))
        prepare_index(place.catalog_url, place.data_path)
        return place

    return make


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()
