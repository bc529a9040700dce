"""Our prefect.yaml as deployments, without a server: tests/e2e deploys them."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # the stubs are not among our tools
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from pydantic import ValidationError

from deployments import deploying
from deployments.deploying import PROJECT, our_deployments


def test_every_entry_becomes_a_deployment_with_what_it_says() -> None:
    entries = {entry["name"]: entry for entry in yaml.safe_load(PROJECT.read_text())["deployments"]}
    made = {each.name: each for each in our_deployments()}
    assert made.keys() == entries.keys()
    for name, deployment in made.items():
        entry, content = entries[name], deployment.content
        assert deployment.flow == name
        for key in ("entrypoint", "description", "tags", "parameters"):
            assert getattr(content, key) == entry[key]
        assert content.concurrency_limit == entry["concurrency_limit"]["limit"]
        assert content.work_pool_name == "pacs"
        assert [each.slug for each in deployment.schedules] == [each["slug"] for each in entry["schedules"]]


def test_every_start_leaves_schedules_and_pauses_alone() -> None:
    for deployment in our_deployments():
        assert not {"schedules", "paused"} & deployment.content.model_fields_set


def test_schedules_are_cron_lines_or_intervals_in_seconds() -> None:
    schedules = {made.name: [each.schedule for each in made.schedules] for made in our_deployments()}
    assert schedules["verify"] == [CronSchedule(cron="30 2 * * *", timezone="UTC")]
    (interval,) = schedules["recall"]
    assert isinstance(interval, IntervalSchedule)
    assert interval.interval == timedelta(seconds=900)


def test_something_prefect_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(PROJECT.read_text())
    content["deployments"][0]["shedules"] = []
    misspelt = tmp_path / "prefect.yaml"
    misspelt.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(deploying, "PROJECT", misspelt)
    with pytest.raises(ValidationError, match="shedules"):
        our_deployments()
