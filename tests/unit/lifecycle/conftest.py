"""A real PostgreSQL, and homes with three local tiers; what differs between local and remote is told by the contract tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.catalog import Catalogs
from tests.support.tiered import TieredHome


@pytest.fixture(scope="session")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogs]:
    server = Catalogs(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, catalogs: Catalogs) -> Iterator[TieredHome]:
    """Shared by the tests of a module; each brings studies of its own."""
    root: Path = tmp_path_factory.mktemp("tiered")
    made = TieredHome(root / "home", catalogs.new(), {name: {"url": str(root / name)} for name in ("warm", "cold")})
    yield made
    made.close()
