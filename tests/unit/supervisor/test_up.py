"""What `pacs up` refuses before it starts anything."""

import socket
from pathlib import Path

import pytest

from pacs_core import supervisor
from pacs_core.settings import load_settings
from pacs_core.supervisor.part import PartState
from pacs_core.supervisor.runtime import run_directory, single_instance
from tests.support.processes import free_ports


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, port in zip(("DICOM", "HTTP", "PREFECT", "DASK"), free_ports(4), strict=True):
        monkeypatch.setenv(f"PACS_{name}_PORT", str(port))
    return tmp_path / "home"


@pytest.mark.parametrize("setting", ["dicom_port", "http_port", "prefect_port", "dask_port"])
def test_a_port_that_is_taken_is_named_in_one_line(home: Path, capsys: pytest.CaptureFixture[str], setting: str) -> None:
    settings = load_settings(home)
    port = getattr(settings, setting)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert supervisor.run(settings) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"{setting}: port {port}" in line
    assert f"PACS_{setting.upper()}" in line


def test_a_port_used_twice_is_named(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_HTTP_PORT", str(load_settings(home).dicom_port))
    assert supervisor.run(load_settings(home)) == 1
    assert "is also dicom_port" in capsys.readouterr().err


def test_a_home_that_cannot_be_written_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert supervisor.run(load_settings(tmp_path / "file" / "home")) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert str(tmp_path / "file" / "home") in line
    assert "PACS_HOME" in line


def test_a_second_instance_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_directory(home).mkdir(parents=True)
    with single_instance(home):
        assert supervisor.run(load_settings(home)) == 1
    assert str(home) in capsys.readouterr().err


def test_a_catalog_that_does_not_answer_is_named(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("PACS_CATALOG_URL", f"postgresql://127.0.0.1:{port}/pacs")
    assert supervisor.run(load_settings(home)) == 1
    assert "catalog_url" in capsys.readouterr().err


def test_every_part_of_an_archive_that_does_not_run_is_stopped(home: Path) -> None:
    parts = supervisor.status(load_settings(home))
    assert {"postgres", "prefect", "web"} <= {part.name for part in parts}
    assert {part.state for part in parts} == {PartState.STOPPED}
