"""Deploys flows from prefect.yaml files: ours with the archive, and each that a user has in `<home>/flows`.

A file's schedules are what a flow begins with: they are deployed once, and from then on the user's.
"""

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import yaml  # type: ignore[import-untyped]  # the stubs are not among our tools
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

PROJECT = Path(__file__).resolve().with_name("prefect.yaml")
_MANY = 200  # deployments; the most that Prefect's API answers at once
_PATIENCE = 140.0  # seconds for `prefect deploy` of one user's project


@dataclass(frozen=True, slots=True)
class OurDeployment:
    """One entry of our prefect.yaml.

    Attributes:
        flow: the name of the flow.
        content: what every start sets.
        schedules: what the first start sets.
    """

    name: str
    flow: str
    content: DeploymentUpdate
    schedules: list[DeploymentScheduleCreate]


def our_deployments() -> list[OurDeployment]:
    """What our prefect.yaml says. ValidationError if it says something about a deployment that Prefect does not know."""
    return [_our_deployment(entry) for entry in yaml.safe_load(PROJECT.read_text())["deployments"]]


def _our_deployment(entry: dict[str, Any]) -> OurDeployment:
    content = dict(entry)
    name, schedules, limit = content.pop("name"), content.pop("schedules"), content.pop("concurrency_limit")
    flow = _flow(entry["entrypoint"])
    content["work_pool_name"] = content.pop("work_pool")["name"]
    content["concurrency_limit"] = limit["limit"]
    content["concurrency_options"] = {"collision_strategy": limit["collision_strategy"]}
    content["parameter_openapi_schema"] = parameter_schema(flow).model_dump(exclude_unset=True)
    content["enforce_parameter_schema"] = True
    content["version"] = flow.version
    return OurDeployment(name, flow.name, DeploymentUpdate.model_validate(content), [_schedule(each) for each in schedules])


def _flow(entrypoint: str) -> Flow[..., Any]:
    module, _, function = entrypoint.rpartition(".")
    flow: Flow[..., Any] = getattr(importlib.import_module(module), function)
    return flow


def _schedule(entry: dict[str, Any]) -> DeploymentScheduleCreate:
    times = {key: value for key, value in entry.items() if key != "slug"}
    return DeploymentScheduleCreate.model_validate({"slug": entry["slug"], "schedule": times})


async def deploy(client: PrefectClient, deployments: Iterable[OurDeployment]) -> Collection[str]:
    """All at once, because the archive is not ready before: `prefect deploy --all` took a third of the start.

    Returns the names of what was deployed already, ours or not.
    """
    known = {each.name: each.id for each in await client.read_deployments(limit=_MANY)}
    await asyncio.gather(*(_deploy(client, each, known.get(each.name)) for each in deployments))
    return known.keys()


async def _deploy(client: PrefectClient, deployment: OurDeployment, known: UUID | None) -> None:
    if known is not None:
        await client.update_deployment(known, deployment.content)
    else:
        flow = await client.create_flow_from_name(deployment.flow)
        content = deployment.content.model_dump(exclude_unset=True)
        await client.create_deployment(flow, deployment.name, schedules=deployment.schedules, **content)


def _without_known_schedules(project: Path, known: Collection[str], directory: Path) -> Path:
    """A copy of a prefect.yaml without the schedules of what is deployed already.

    Deployed again, Prefect would reset a schedule that a user changed, bring back one that was removed, and drop those that were
    added beside it.
    """
    content = yaml.safe_load(project.read_text())
    for deployment in content["deployments"]:
        if deployment["name"] in known:
            deployment.pop("schedules", None)
            deployment.pop("schedule", None)
    copy = directory / f"{project.parent.name}.yaml"
    copy.write_text(yaml.safe_dump(content, sort_keys=False))
    return copy


def deploy_users_flows(folder: Path, known: Collection[str]) -> None:
    """Deploy every `<home>/flows/*/prefect.yaml`, each in a process of its own: whatever is wrong there stops nothing of ours."""
    for project in sorted(folder.glob("*/prefect.yaml")):
        try:
            with TemporaryDirectory() as scratch:
                file = _without_known_schedules(project, known, Path(scratch))
                command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
                done = subprocess.run(
                    command, cwd=project.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_PATIENCE, check=False
                )
            outcome = "deployed" if done.returncode == 0 else f"not deployed:\n{done.stdout}"
        except Exception as exc:  # noqa: BLE001 - a boundary: somebody else's file
            outcome = f"not deployed: {exc!r}"
        sys.stderr.write(f"{project}: {outcome}\n")
