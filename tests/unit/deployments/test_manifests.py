"""The container files name only what exists: commands, settings, files, ports. No engine and no cluster are needed to see that."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
import yaml  # type: ignore[import-untyped]  # the stubs are not among our tools

from pacs_core.cli.main import app
from pacs_core.settings import Settings, load_settings
from pacs_core.supervisor.plan import parts, prefect_environment

ROOT = Path(__file__).resolve().parents[3]
DEPLOYMENTS = ROOT / "deployments"
COMPOSE = DEPLOYMENTS / "compose.yaml"
KUBERNETES = DEPLOYMENTS / "kubernetes.yaml"
SECRETS = {"PACS_POSTGRES_PASSWORD": "p", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}
OUR_IMAGE = "pacs:0.1.0"


class Container(NamedTuple):
    """One part as one of the files starts it."""

    name: str
    image: str
    command: list[str]
    environment: dict[str, str]
    home: bool
    stop_grace: float


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return content


def kubernetes(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in yaml.safe_load_all(KUBERNETES.read_text()) if each["kind"] == kind}


def composed() -> Iterator[Container]:
    for name, service in compose()["services"].items():
        command = [*service.get("entrypoint", ["pacs"]), *(service.get("command", []))]
        grace = float(service.get("stop_grace_period", "10s").removesuffix("s"))
        yield Container(name, service["image"], command, service.get("environment", {}), bool(service.get("volumes")), grace)


def scheduled() -> Iterator[Container]:
    shared = kubernetes("ConfigMap")["settings"]["data"] | kubernetes("Secret")["connections"]["stringData"]
    for name, deployment in kubernetes("Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        own = {each["name"]: each["value"] for each in container.get("env", ())}
        grace = float(pod["terminationGracePeriodSeconds"])
        yield Container(name, container["image"], container["command"], shared | own, "volumeMounts" in container, grace)


OURS = [
    pytest.param(each, id=f"{source}-{each.name}")
    for source, found in (("compose", composed()), ("kubernetes", scheduled()))
    for each in found
    if each.image == OUR_IMAGE
]


@pytest.mark.parametrize("container", OURS)
def test_every_command_exists(container: Container) -> None:
    program, *arguments = container.command
    match program:
        case "pacs":
            command = typer.main.get_command(app)
            context = command.make_context("pacs", arguments, resilient_parsing=True)
            name, chosen, rest = command.resolve_command(context, arguments)  # type: ignore[attr-defined]  # it is a group
            assert chosen is not None
            chosen.make_context(name, rest)  # a wrong option is an error here
        case "python":
            assert arguments[0] == "-m"
            assert importlib.util.find_spec(arguments[1]) is not None
        case _:
            assert program == "sleep"


@pytest.mark.parametrize("container", OURS)
def test_the_settings_are_settings_and_hold_what_is_allowed(container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in container.environment.items():
        assert isinstance(value, str), f"{name}: quote it"
        if name.startswith("PACS_"):
            assert name.removeprefix("PACS_").split("__")[0].lower() in Settings.model_fields
            monkeypatch.setenv(name, re.sub(r"\$\{.*\}", "secret", value))
    settings = load_settings(tmp_path)
    assert not settings.prefect_api_url or settings.flow_api_url == container.environment["PREFECT_API_URL"]
    assert (settings.dicom_port, settings.http_port) == (11112, 8042)


@pytest.mark.parametrize("container", OURS)
def test_prefect_is_told_nothing_that_pacs_up_does_not_tell_it(container: Container, tmp_path: Path) -> None:
    known = {*prefect_environment(load_settings(tmp_path), ""), "PREFECT_SERVER_UI_API_URL"}
    assert {name for name in container.environment if name.startswith("PREFECT_")} <= known


@pytest.mark.parametrize(("source", "found"), [("compose", composed), ("kubernetes", scheduled)])
def test_every_part_of_pacs_up_has_a_container(source: str, found: Any, tmp_path: Path) -> None:
    wanted = {re.sub(r"-\d+$", "", part.name) for part in parts(load_settings(tmp_path), "")}
    there = {each.name for each in found()} | ({"postgres"} if source == "kubernetes" else set())
    assert wanted <= there


@pytest.mark.parametrize("container", OURS)
def test_what_stops_in_order_is_given_the_time(container: Container, tmp_path: Path) -> None:
    planned = {re.sub(r"-\d+$", "", part.name): part.stop_timeout for part in parts(load_settings(tmp_path), "")}
    assert container.stop_grace >= planned.get(container.name, 0)


@pytest.mark.parametrize("container", OURS)
def test_whatever_looks_at_objects_has_the_home(container: Container) -> None:
    assert container.home is (container.name not in ("prefect", "dask-scheduler", "dicom"))


def test_on_kubernetes_the_home_is_on_one_node_and_services_set_no_settings() -> None:
    for name, deployment in kubernetes("Deployment").items():
        pod = deployment["spec"]["template"]
        assert pod["spec"]["enableServiceLinks"] is False, name
        if pod["metadata"]["labels"].get("home"):
            (term,) = pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert (term["labelSelector"]["matchLabels"], term["topologyKey"]) == ({"home": "pacs"}, "kubernetes.io/hostname")
        else:
            assert "volumes" not in pod["spec"], name
    deployments = kubernetes("Deployment")
    assert deployments["listener"]["spec"]["replicas"] >= 2
    assert deployments["committer"]["spec"]["strategy"] == {"type": "Recreate"}


def test_services_lead_to_ports_that_are_served() -> None:
    for name, service in kubernetes("Service").items():
        (container,) = kubernetes("Deployment")[name]["spec"]["template"]["spec"]["containers"]
        assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]
    served = {port for each in compose()["services"].values() for port in each.get("ports", ())}
    assert served == {"11112:11112", "127.0.0.1:8042:8042", "127.0.0.1:4200:4200"}


def test_images_have_versions_and_no_place() -> None:
    images = {each.image for each in (*composed(), *scheduled())} | set(
        re.findall(r"^FROM (\S+)", (DEPLOYMENTS / "Dockerfile").read_text(), re.MULTILINE)
    )
    for image in images:
        name, _, tag = image.partition(":")
        assert tag not in ("", "latest")
        assert "." not in name.split("/")[0], f"{image} names a registry"


def test_what_the_image_is_made_of_exists() -> None:
    dockerfile = (DEPLOYMENTS / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    assert "CMD " + json.dumps(["listen", "--no-committer"]) in dockerfile
    assert re.search(r"^USER [1-9]\d*$", dockerfile, re.MULTILINE), "a number: Kubernetes cannot see that a name is not root"


def compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    return None


@pytest.mark.skipif(compose_command() is None, reason="Docker's compose plugin is not installed")
def test_compose_accepts_its_file() -> None:
    command = [*(compose_command() or ()), "--file", str(COMPOSE), "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, **SECRETS}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("name", sorted(kubernetes("Deployment")))
def test_kubectl_reads_each_deployment_as_one(name: str, tmp_path: Path) -> None:
    """`--local`: it needs no cluster, which `--dry-run=client` does, and it knows the types of a workload's fields."""
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump(kubernetes("Deployment")[name]))
    command = ["kubectl", "set", "image", "--local", "--filename", str(file), f"{name}=other:1", "--output", "name"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"deployment.apps/{name}"), done.stderr
