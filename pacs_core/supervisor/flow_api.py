"""Deployments and flow runs of the archive, through the REST API of its Prefect server.

Not through Prefect's client: `pacs_core` never imports the engine, and a command should start at once.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID, uuid4

import httpx

from pacs_core.errors import NotFound, RequestError, UnavailableError
from pacs_core.supervisor.flow_schedules import described

FINAL_STATES = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_UNFINISHED_STATES = ("RUNNING", "PENDING", "CANCELLING")
_POLL_INTERVAL = 0.5
_PAGE = 200


class FlowServiceUnavailable(UnavailableError):
    """The Prefect server does not answer."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployed flow.

    Attributes:
        paused: nothing is scheduled: the deployment itself is paused, or every schedule it has is inactive.
        schedules: as people write them, such as a cron line.
    """

    id: str
    name: str
    flow: str
    description: str
    schedules: tuple[str, ...]
    paused: bool
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One run of a flow."""

    id: str
    name: str
    deployment: str
    state_type: str  # SCHEDULED, PENDING, RUNNING, COMPLETED, FAILED, CRASHED, CANCELLING, CANCELLED, PAUSED
    state_name: str
    message: str
    started: datetime | None
    ended: datetime | None
    parameters: Mapping[str, Any]

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self.state_type in FINAL_STATES

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.state_type == "COMPLETED"


class FlowApi:
    """Prefect's API at `url` (`http://127.0.0.1:4200/api`).

    Every method may raise FlowServiceUnavailable.
    """

    def __init__(self, url: str, *, timeout: float = 10.0, transport: httpx.BaseTransport | None = None) -> None:
        self._client = httpx.Client(base_url=url.rstrip("/") + "/", timeout=timeout, transport=transport, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def deployments(self) -> Sequence[Deployment]:
        """Every deployment, by name."""
        flows = {flow["id"]: flow["name"] for flow in self._pages("flows/filter", {})}
        found = [_deployment(row, flows.get(row["flow_id"], "")) for row in self._pages("deployments/filter", {})]
        return sorted(found, key=lambda deployment: deployment.name)

    def deployment(self, name: str) -> Deployment:
        """The deployment called `name` or `flow/name`. NotFound names those that exist."""
        every = self.deployments()
        for deployment in every:
            if name in (deployment.name, f"{deployment.flow}/{deployment.name}"):
                return deployment
        known = ", ".join(deployment.name for deployment in every) or "none"
        raise NotFound(f"there is no flow {name}; deployed are: {known}")

    def run(self, name: str, parameters: Mapping[str, Any] | None = None) -> FlowRun:
        """Start a run now. RequestError with the server's reasons if the parameters are not valid."""
        deployment = self.deployment(name)
        body = {"parameters": dict(parameters or {}), "state": {"type": "SCHEDULED"}, "idempotency_key": str(uuid4())}
        return _flow_run(self._call("POST", f"deployments/{deployment.id}/create_flow_run", body), {deployment.id: deployment.name})

    def get(self, run_id: str) -> FlowRun:
        """The run as it is now."""
        return _flow_run(self._call("GET", f"flow_runs/{run_id}"), {})

    def follow(self, run_id: str, *, changed: Callable[[FlowRun], None], sleep: Callable[[float], None] = time.sleep) -> FlowRun:
        """Wait until the run has ended; `changed` is called at once and at each new state. Returns the final run."""
        before = None
        while True:
            run = self.get(run_id)
            if before is None or (run.state_name, run.message) != (before.state_name, before.message):
                changed(run)
            if run.final:
                return run
            before = run
            sleep(_POLL_INTERVAL)

    def pause(self, name: str) -> Deployment:
        """Stop scheduling a flow; it can still be run by hand. Stays so over restarts."""
        return self._set_paused(name, paused=True)

    def resume(self, name: str) -> Deployment:
        """Schedule a flow again."""
        return self._set_paused(name, paused=False)

    def history(self, name: str | None = None, *, limit: int = 20) -> Sequence[FlowRun]:
        """The latest runs, newest first, of one flow or of all; what is only scheduled is left out."""
        chosen = {each.id: each.name for each in ([self.deployment(name)] if name else self.deployments())}
        body = {
            "deployments": {"id": {"any_": list(chosen)}},
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
            "sort": "START_TIME_DESC",
            "limit": limit,
        }
        return [_flow_run(row, chosen) for row in self._call("POST", "flow_runs/filter", body)] if chosen else []

    def runs_since(self, moment: datetime, name: str | None = None) -> Mapping[str, Sequence[FlowRun]]:
        """Every run that was started after a moment, by flow; of one flow or of all, also those without a run."""
        chosen = {each.id: each.name for each in ([self.deployment(name)] if name else self.deployments())}
        found: dict[str, list[FlowRun]] = {each: [] for each in chosen.values()}
        # Prefect takes the expected start of a run that has none yet, so what is only scheduled is left out by its state.
        started = {"start_time": {"after_": moment.isoformat()}, "state": {"type": {"not_any_": ["SCHEDULED"]}}}
        body = {"deployments": {"id": {"any_": list(chosen)}}, "flow_runs": started, "sort": "ID_DESC"}
        for row in self._pages("flow_runs/filter", body) if chosen else ():
            run = _flow_run(row, chosen)
            found[run.deployment].append(run)
        return found

    def reschedule(self, name: str, schedule: Mapping[str, Any] | None) -> Deployment:
        """Give a flow one schedule in place of all it has, or none. One that is paused stays so.

        RequestError, and no change, if the server refuses it.
        """
        deployment = self.deployment(name)
        path = f"deployments/{deployment.id}/schedules"
        before = self._call("GET", path)
        if schedule is not None:
            self._call("POST", path, [{"schedule": dict(schedule), "active": not deployment.paused}])
        for each in before:
            self._call("DELETE", f"{path}/{each['id']}")
        return self.deployment(name)

    def cancel(self, run: str) -> FlowRun:
        """Ask that a run, by its id or name, ends; what it has done so far stays. NotFound, RequestError if it has ended."""
        found = self._find_run(run)
        if found.final:
            raise RequestError(f"the run {found.name} has ended already: {found.state_name}")
        self._call("POST", f"flow_runs/{found.id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        return self.get(found.id)

    def _find_run(self, run: str) -> FlowRun:
        with suppress(ValueError):
            return self.get(str(UUID(run)))
        rows = self._call("POST", "flow_runs/filter", {"flow_runs": {"name": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_DESC"})
        named = [_flow_run(row, {}) for row in rows]
        if not named:
            raise NotFound(f"there is no run {run}; `pacs flow history` shows them")
        return next((each for each in named if not each.final), named[0])  # Prefect may use a name twice

    def abandon_unfinished(self, pool: str, *, reason: str) -> int:
        """Mark runs of a work pool that no process works on any more as crashed, so that none blocks the next one."""
        body = {"work_pools": {"name": {"any_": [pool]}}, "flow_runs": {"state": {"type": {"any_": list(_UNFINISHED_STATES)}}}}
        rows = list(self._pages("flow_runs/filter", body))
        for row in rows:
            state = {"type": "CRASHED", "name": "Crashed", "message": reason}
            self._call("POST", f"flow_runs/{row['id']}/set_state", {"state": state, "force": True})
        return len(rows)

    def _set_paused(self, name: str, *, paused: bool) -> Deployment:
        deployment = self.deployment(name)
        # The schedules too: a schedule that was switched off in the UI would otherwise stay off.
        for schedule in self._call("GET", f"deployments/{deployment.id}/schedules"):
            self._call("PATCH", f"deployments/{deployment.id}/schedules/{schedule['id']}", {"active": not paused})
        self._call("POST", f"deployments/{deployment.id}/{'pause' if paused else 'resume'}_deployment")
        return self.deployment(name)

    def _pages(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        offset = 0
        while rows := self._call("POST", path, {**body, "limit": _PAGE, "offset": offset}):
            yield from rows
            if len(rows) < _PAGE:
                return
            offset += _PAGE

    def _call(self, method: str, path: str, body: Mapping[str, Any] | Sequence[Any] | None = None) -> Any:
        with _translated(str(self._client.base_url)):
            response = self._client.request(method, path, json=body)
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFound("the Prefect server knows nothing under that id")
        if response.is_client_error:
            raise RequestError(f"the Prefect server refused that: {_reason(response)}")
        if response.is_server_error:
            raise FlowServiceUnavailable(f"the Prefect server answered {response.status_code}")
        return response.json() if response.content else None


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as exc:
        raise FlowServiceUnavailable(f"no Prefect server answers at {url}; is pacs up running?") from exc


def _reason(response: httpx.Response) -> str:
    try:
        detail = response.json()
    except ValueError:
        return response.text[:500]
    if isinstance(detail, dict):
        detail = detail.get("detail") or detail.get("exception_detail") or detail
    if isinstance(detail, list) and all(isinstance(each, dict) and "msg" in each for each in detail):
        # Of a value that may have one of several forms, the errors of the forms that it has not are no help.
        detail = "; ".join(each["msg"] for each in detail if each.get("type") == "value_error") or detail
    return str(detail)[:500]


def _deployment(row: Mapping[str, Any], flow: str) -> Deployment:
    schedules = row.get("schedules") or []
    return Deployment(
        id=row["id"],
        name=row["name"],
        flow=flow,
        description=row.get("description") or "",
        schedules=tuple(described(each["schedule"]) for each in schedules),
        paused=bool(row.get("paused")) or (bool(schedules) and not any(each["active"] for each in schedules)),
        tags=tuple(row.get("tags") or ()),
    )


def _flow_run(row: Mapping[str, Any], deployments: Mapping[str, str]) -> FlowRun:
    state = row.get("state") or {}
    return FlowRun(
        id=row["id"],
        name=row["name"],
        deployment=deployments.get(row.get("deployment_id") or "", ""),
        state_type=state.get("type") or row.get("state_type") or "",
        state_name=state.get("name") or row.get("state_name") or "",
        message=state.get("message") or "",
        started=_instant(row.get("start_time")),
        ended=_instant(row.get("end_time")),
        parameters=row.get("parameters") or {},
    )


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
