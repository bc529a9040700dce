"""What every test may use."""

import logging
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes is the machine's.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def no_archive_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never see the archive of whoever runs them."""
    for name in os.environ:
        if name.startswith("PACS_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_connections_left() -> Iterator[None]:
    """What tasks have kept open in this process is closed while its PostgreSQL is still there."""
    yield
    if kept := sys.modules.get("tasks.connections"):
        kept.close_connections()


@pytest.fixture(autouse=True)
def quiet_pynetdicom() -> None:
    """Where nobody has configured logging, pynetdicom's warnings would go to standard error."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
