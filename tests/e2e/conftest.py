"""Real processes for real clients: one `pacs up` for the whole run, and light listeners for what has to go wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.archive import Archive, Listener, running_archive
from tests.support.catalog import Catalogs

_LOG_LINES = 150


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """A running archive, shared: tests bring UIDs and PatientIDs of their own and expect others' data beside them."""
    with running_archive(tmp_path_factory.mktemp("shared") / "home") as running:
        yield running


@pytest.fixture(scope="session")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogs]:
    """One PostgreSQL for the light listeners."""
    server = Catalogs(tmp_path_factory.mktemp("catalogs"), hasty=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def new_listener(tmp_path: Path, catalogs: Catalogs) -> Iterator[Callable[..., Listener]]:
    """Starts `pacs listen` with the given PACS_* settings, in `home` or a new one; stopped after the test."""
    made: list[Listener] = []

    def make(home: Path | None = None, **settings: str) -> Listener:
        listener = Listener(home or tmp_path / f"listener{len(made)}", catalog_url=catalogs.prepared(), settings=settings)
        made.append(listener)
        listener.start()
        return listener

    yield make
    for each in made:
        each.stop()


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory, catalogs: Catalogs) -> Iterator[Listener]:
    """One `pacs listen` for the module: DICOM without the flow engine."""
    running = Listener(tmp_path_factory.mktemp("listener") / "home", catalog_url=catalogs.prepared())
    running.start()
    yield running
    running.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Iterator[None]:
    """A failed test shows the end of the logs of the archives it used."""
    report: pytest.TestReport = yield  # type: ignore[assignment]  # pluggy sends the report into the wrapper
    if report.failed and isinstance(item, pytest.Function):
        for name, value in item.funcargs.items():
            if isinstance(value, Archive | Listener) and value.log.exists():
                tail = value.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                report.sections.append((f"log of {name}", "\n".join(tail)))
    return report  # type: ignore[return-value]
