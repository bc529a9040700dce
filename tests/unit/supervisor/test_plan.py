"""Which parts an archive has."""

from pathlib import Path

import pytest

from pacs_core.settings import load_settings
from pacs_core.supervisor import plan
from pacs_core.supervisor.flow_api import FlowServiceUnavailable
from pacs_core.supervisor.plan import DEPLOYMENTS, parts


def names(home: Path) -> list[str]:
    return [part.name for part in parts(load_settings(home), "postgresql+asyncpg://")]


def test_an_archive_of_its_own_has_every_part(tmp_path: Path) -> None:
    assert names(tmp_path) == [
        *(
            "postgres",
            "prefect",
            "flow-runner",
            "dask-scheduler",
            "dask-worker-1",
            "dask-worker-2",
            "committer",
            "listener-1",
            "listener-2",
            "web",
        )
    ]


def test_what_is_elsewhere_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_CATALOG_URL", "postgresql://db/pacs")
    monkeypatch.setenv("PACS_DASK_ADDRESS", "tcp://cluster:8786")
    monkeypatch.setenv("PACS_LISTENERS", "1")
    assert names(tmp_path) == ["prefect", "flow-runner", "committer", "listener-1", "web"]
    monkeypatch.setenv("PACS_PREFECT_API_URL", "https://flows.hospital.example/api/")
    assert names(tmp_path) == ["flow-runner", "committer", "listener-1", "web"]
    planned = parts(load_settings(tmp_path), "")
    assert planned[0].env["PREFECT_API_URL"] == "https://flows.hospital.example/api"
    assert plan.addresses(load_settings(tmp_path))["prefect"] == "https://flows.hospital.example"


def test_needs_are_parts_and_make_no_circle(tmp_path: Path) -> None:
    planned = {part.name: set(part.needs) for part in parts(load_settings(tmp_path), "")}
    settled: set[str] = set()
    while len(settled) < len(planned):
        free = {name for name, needs in planned.items() if name not in settled and needs <= settled}
        assert free, f"a circle or an unknown part among {planned}"
        settled |= free


def test_nothing_of_prefect_leaves_the_machine(tmp_path: Path) -> None:
    server = next(part for part in parts(load_settings(tmp_path), "") if part.name == "prefect")
    assert server.env["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert server.env["PREFECT_SERVER_UI_V2_ENABLED"] == "false"
    assert server.env["PREFECT_SERVER_API_HOST"] == "127.0.0.1"


def test_the_programs_of_the_flow_engine_are_beside_the_package(tmp_path: Path) -> None:
    assert {"server.py", "runner.py", "worker_ready.py", "prefect.yaml"} <= {path.name for path in DEPLOYMENTS.iterdir()}


def test_a_listener_has_the_time_it_gives_its_peers_and_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_ASSOCIATION_TIMEOUT", "100")
    listener = next(part for part in parts(load_settings(tmp_path), "") if part.name == "listener-1")
    assert listener.stop_timeout == 105


def test_abandoned_runs_are_looked_for_until_that_succeeds_and_never_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def abandon(api_url: str) -> None:
        asked.append(api_url)
        if len(asked) == 1:
            raise FlowServiceUnavailable("not now")

    monkeypatch.setattr(plan, "_abandon_runs", abandon)
    server = next(part for part in parts(load_settings(tmp_path), "") if part.name == "prefect")
    assert server.complete is not None
    with pytest.raises(FlowServiceUnavailable):
        server.complete()
    server.complete()
    server.complete()
    assert len(asked) == 2
