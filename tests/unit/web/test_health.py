"""The health endpoints: what they ask, and what they answer with."""

import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from pacs_core.settings import load_settings
from pacs_core.supervisor.part import PartState, PartStatus
from pacs_core.supervisor.runtime import Runtime
from pacs_core.web import health
from pacs_core.web.app import create_app
from pacs_core.web.health import Health, listening, of_archive, writable


def get(health: Health, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(health)), base_url="http://web") as client:
            return await client.get(path)

    return asyncio.run(ask())


def parts(**parts: bool) -> Health:
    essential = {name: (lambda ok=ok: ok) for name, ok in parts.items() if name in ("postgres", "storage")}
    others = {name: (lambda ok=ok: ok) for name, ok in parts.items() if name not in essential}
    return Health(essential, others, {"postgres": "/run/pg"})


def test_a_process_that_answers_lives_whatever_else_is_down() -> None:
    assert get(parts(postgres=False), "/live").status_code == 200


def test_an_archive_is_ready_when_it_can_take_and_find_instances() -> None:
    assert get(parts(postgres=True, storage=True, prefect=False), "/ready").status_code == 200
    assert get(parts(postgres=False, storage=True, prefect=True), "/ready").status_code == 503


def test_health_names_each_part_and_fails_if_one_does() -> None:
    answer = get(parts(postgres=True, storage=True, prefect=False), "/health")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "down",
        "parts": {
            "postgres": {"state": "ok", "address": "/run/pg"},
            "storage": {"state": "ok", "address": ""},
            "prefect": {"state": "down", "address": ""},
        },
    }
    assert get(parts(postgres=True, prefect=True), "/health").status_code == 200


def test_a_part_that_hangs_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE", 0.05)
    hanging = threading.Event()
    assert get(Health({"storage": lambda: hanging.wait(0.5) or True}), "/ready").status_code == 503


def test_nothing_of_an_archive_that_does_not_run_is_well_but_its_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for port in ("DICOM", "PREFECT", "DASK"):
        monkeypatch.setenv(f"PACS_{port}_PORT", "9")
    found = get(of_archive(load_settings(tmp_path)), "/health").json()["parts"]
    assert {name for name, part in found.items() if part["state"] == "ok"} == {"storage"}


def test_no_password_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_CATALOG_URL", "postgresql://archive:secret@127.0.0.1:9/pacs")
    assert "secret" not in get(of_archive(load_settings(tmp_path)), "/health").text


def test_storage_that_does_not_exist_yet_can_be_made(tmp_path: Path) -> None:
    assert writable(tmp_path / "hot" / "deeper")
    (tmp_path / "file").touch()
    assert not writable(tmp_path / "file")
    assert not writable(tmp_path / "file" / "hot")


@pytest.mark.parametrize(("states", "expected"), [(["ready", "restarting"], True), (["restarting", "starting"], False)])
def test_the_supervisor_knows_whether_a_listener_answers(tmp_path: Path, states: list[str], expected: bool) -> None:
    listeners = tuple(PartStatus(f"listener-{number}", PartState(state)) for number, state in enumerate(states))
    assert listening(Runtime(1, True, "", {}, listeners), load_settings(tmp_path)) is expected
