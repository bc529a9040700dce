"""What a running archive tells the other commands."""

from pathlib import Path

import pytest

from pacs_core.supervisor.part import PartState, PartStatus
from pacs_core.supervisor.runtime import Runtime, read_runtime, run_directory, single_instance, write_runtime

FACTS = Runtime(
    pid=4711,
    ready=True,
    catalog_url="postgresql://postgres@/pacs?host=/run/pg",
    addresses={"dicom": "PACS@0.0.0.0:11112"},
    parts=(PartStatus("web", PartState.READY, "http://127.0.0.1:8042", 4712, 1), PartStatus("prefect", PartState.WAITING)),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    run_directory(tmp_path).mkdir()
    return tmp_path


def test_the_facts_of_a_running_archive_come_back_as_they_were_written(home: Path) -> None:
    with single_instance(home) as ours:
        assert ours
        write_runtime(home, FACTS)
        assert read_runtime(home) == FACTS


def test_the_facts_of_an_archive_that_is_gone_are_not_believed(home: Path) -> None:
    with single_instance(home):
        write_runtime(home, FACTS)
    assert read_runtime(home) is None


def test_a_home_that_never_ran_has_no_facts(tmp_path: Path) -> None:
    assert read_runtime(tmp_path) is None


def test_a_second_instance_is_told_so(home: Path) -> None:
    with single_instance(home) as first, single_instance(home) as second:
        assert (first, second) == (True, False)


def test_whoever_asks_does_not_keep_the_archive_from_starting(home: Path) -> None:
    with single_instance(home):
        pass
    assert read_runtime(home) is None
    with single_instance(home) as ours:
        assert ours


def test_the_facts_are_for_their_owner_only(home: Path) -> None:
    write_runtime(home, FACTS)
    assert (run_directory(home) / "up.json").stat().st_mode & 0o077 == 0
