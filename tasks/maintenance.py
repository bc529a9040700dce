"""The steps of the `maintain` flow."""

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime

from prefect import task

from pacs_core.index.maintenance import Step, UpkeepStep
from pacs_core.settings import load_settings
from pacs_core.wiring import index
from tasks.policy import RETRIES


@task(**RETRIES)
def plan_upkeep(expire_before: datetime) -> Sequence[UpkeepStep]:
    """What there is to do; changes nothing."""
    with closing(index.upkeep(load_settings(), expire_before=expire_before)) as upkeep:
        return upkeep.planned()


@task(task_run_name="{step}", **RETRIES)
def do_upkeep(step: Step, expire_before: datetime) -> UpkeepStep:
    """One step of the upkeep."""
    with closing(index.upkeep(load_settings(), expire_before=expire_before)) as upkeep:
        return upkeep.do(step)
