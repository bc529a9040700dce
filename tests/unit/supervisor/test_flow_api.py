"""The client of Prefect's REST API, against a small fake of it."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from pacs_core.errors import NotFound, RequestError
from pacs_core.supervisor.flow_api import FlowApi, FlowRun, FlowServiceUnavailable

SCHEDULE = {"id": "s1", "active": True, "schedule": {"cron": "30 2 * * *", "timezone": "UTC"}}


CRON_ERRORS = [
    {"type": "missing", "loc": ["body", 0, "schedule", "IntervalSchedule", "interval"], "msg": "Field required"},
    {"type": "value_error", "loc": ["body", 0, "schedule", "CronSchedule", "cron"], "msg": "Value error, Invalid cron: '99 * * * *'"},
]


class FakePrefect:
    """One deployment, one run whose states are taken from a list."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)
        self.paused = False
        self.added: list[dict[str, Any]] = []
        self.schedule: dict[str, Any] = dict(SCHEDULE)
        self.calls: list[tuple[str, str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path.removeprefix("/api/"), json.loads(request.content or "null")
        self.calls.append((request.method, path, body))
        if path.startswith("deployments/d1/schedules"):
            return self.schedules(request.method, path, body)
        match request.method, path:
            case "POST", "flows/filter":
                return httpx.Response(200, json=[{"id": "f1", "name": "verify"}])
            case "POST", "deployments/filter":
                return httpx.Response(200, json=[self.deployment()])
            case "POST", "deployments/d1/create_flow_run":
                return (
                    self.run() if body["parameters"] != {"scope": "bad"} else httpx.Response(409, json={"detail": "scope: not one of all"})
                )
            case "GET", "flow_runs/r1":
                return self.run()
            case "POST", "flow_runs/filter":
                return httpx.Response(200, json=[self.run().json()])
            case "POST", "deployments/d1/pause_deployment" | "deployments/d1/resume_deployment":
                self.paused = "pause" in path
                return httpx.Response(200, json=None)
            case "POST", "flow_runs/r1/set_state":
                return httpx.Response(201, json={})
        return httpx.Response(404, json={"detail": "not found"})

    def schedules(self, method: str, path: str, body: Any) -> httpx.Response:
        match method:
            case "POST" if "99" in str(body):
                return httpx.Response(422, json={"exception_detail": CRON_ERRORS})
            case "POST":
                self.added += body
            case "PATCH":
                self.schedule["active"] = body["active"]
            case "DELETE":
                self.schedule = self.added[0]
        return httpx.Response(200, json=[self.schedule])

    def deployment(self) -> dict[str, Any]:
        return {
            "id": "d1",
            "name": "nightly",
            "flow_id": "f1",
            "description": None,
            "paused": self.paused,
            "schedules": [self.schedule],
            "tags": [],
        }

    def run(self) -> httpx.Response:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        row = {"id": "r1", "name": "quick-fox", "deployment_id": "d1", "start_time": "2026-01-02T03:04:05Z", "end_time": None}
        return httpx.Response(200, json={**row, "state": {"type": state, "name": state.title(), "message": None}, "parameters": {}})


def api(handler: Any) -> FlowApi:
    return FlowApi("http://prefect/api", transport=httpx.MockTransport(handler))


def test_deployments_say_when_they_run() -> None:
    (found,) = api(FakePrefect()).deployments()
    assert (found.name, found.flow, found.schedules, found.paused) == ("nightly", "verify", ("30 2 * * * UTC",), False)


@pytest.mark.parametrize("name", ["nightly", "verify/nightly"])
def test_a_run_is_followed_to_its_end(name: str) -> None:
    prefect = FakePrefect("SCHEDULED", "SCHEDULED", "PENDING", "PENDING", "RUNNING", "COMPLETED")
    seen: list[FlowRun] = []
    flows = api(prefect)
    run = flows.follow(flows.run(name, {"scope": "all"}).id, changed=seen.append, sleep=lambda _: None)
    assert [each.state_type for each in seen] == ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED"]
    assert run.succeeded


@pytest.mark.parametrize("state", ["FAILED", "CRASHED", "CANCELLED"])
def test_every_other_end_is_no_success(state: str) -> None:
    run = api(FakePrefect(state)).follow("r1", changed=lambda _: None)
    assert run.final
    assert not run.succeeded


def test_pausing_also_switches_its_schedules_off_and_resuming_on() -> None:
    prefect = FakePrefect()
    assert api(prefect).pause("nightly").paused
    assert not prefect.schedule["active"]
    assert not api(prefect).resume("nightly").paused
    assert prefect.schedule["active"]


def test_a_schedule_that_was_switched_off_in_the_ui_shows_as_paused() -> None:
    prefect = FakePrefect()
    prefect.schedule["active"] = False
    assert api(prefect).deployment("nightly").paused


def test_the_history_names_the_flow_of_each_run() -> None:
    (run,) = api(FakePrefect("COMPLETED")).history("nightly", limit=5)
    assert (run.deployment, run.name) == ("nightly", "quick-fox")


def test_an_unknown_flow_is_answered_with_those_that_exist() -> None:
    with pytest.raises(NotFound, match="nightly"):
        api(FakePrefect()).run("weekly")


def test_parameters_that_the_server_refuses_are_explained() -> None:
    with pytest.raises(RequestError, match="not one of all"):
        api(FakePrefect("SCHEDULED")).run("nightly", {"scope": "bad"})


def test_a_new_schedule_takes_the_place_of_the_old_one() -> None:
    prefect = FakePrefect()
    assert api(prefect).reschedule("nightly", {"interval": 900.0}).schedules == ("every 900 s",)
    changes = [(method, path) for method, path, _ in prefect.calls if path.startswith("deployments/d1/schedules") and method != "GET"]
    assert changes == [("POST", "deployments/d1/schedules"), ("DELETE", "deployments/d1/schedules/s1")]


def test_a_new_schedule_of_a_paused_flow_rests_too() -> None:
    prefect = FakePrefect()
    api(prefect).pause("nightly")
    assert api(prefect).reschedule("nightly", {"interval": 900.0}).paused


def test_a_schedule_that_is_refused_leaves_the_old_one_and_is_explained() -> None:
    prefect = FakePrefect()
    with pytest.raises(RequestError, match=r"refused that: Value error, Invalid cron: '99 \* \* \* \*'$"):
        api(prefect).reschedule("nightly", {"cron": "99 * * * *"})
    assert prefect.schedule == SCHEDULE


@pytest.mark.parametrize("run", ["quick-fox", "00000000-0000-0000-0000-000000000001"])
def test_a_run_is_cancelled_by_its_name_or_id(run: str) -> None:
    prefect = FakePrefect("RUNNING")
    flows = api(lambda request: prefect(_short(request)))
    assert flows.cancel(run).name == "quick-fox"
    (state,) = (body["state"]["type"] for _, path, body in prefect.calls if path.endswith("set_state"))
    assert state == "CANCELLING"


def _short(request: httpx.Request) -> httpx.Request:
    """The fake knows its run as r1."""
    url = str(request.url).replace("00000000-0000-0000-0000-000000000001", "r1")
    return httpx.Request(request.method, url, content=request.content)


def test_a_run_that_has_ended_is_not_cancelled() -> None:
    with pytest.raises(RequestError, match="quick-fox has ended already: Completed"):
        api(FakePrefect("COMPLETED")).cancel("quick-fox")


def test_runs_since_a_moment_come_by_flow() -> None:
    found = api(FakePrefect("COMPLETED")).runs_since(datetime(2026, 1, 1, tzinfo=UTC))
    assert {flow: [run.name for run in runs] for flow, runs in found.items()} == {"nightly": ["quick-fox"]}


def test_runs_that_nobody_works_on_are_marked_crashed() -> None:
    prefect = FakePrefect("RUNNING")
    assert api(prefect).abandon_unfinished("pacs", reason="gone") == 1
    method, path, body = prefect.calls[-1]
    assert (method, path, body["state"]["type"], body["force"]) == ("POST", "flow_runs/r1/set_state", "CRASHED", True)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(FlowServiceUnavailable, match="pacs up"):
        api(refuse).deployments()


def test_a_broken_server_is_unavailable() -> None:
    with pytest.raises(FlowServiceUnavailable, match="500"):
        api(lambda _: httpx.Response(500)).deployments()
