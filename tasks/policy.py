"""When a task is repeated, and where it runs."""

import sys
from collections.abc import Callable
from typing import Any, Self, TypedDict, cast

import cloudpickle  # type: ignore[import-untyped]  # ships no type information
from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from pacs_core.errors import PacsError
from pacs_core.settings import load_settings

_WAITING = 64  # tasks of a flow that wait at once, at most


def retryable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`: only what the error tree says a repetition can help with."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, PacsError) and error.retryable


def carry(module: str) -> None:
    """Let the tasks of a module that is not installed travel to the Dask workers whole, with the functions that they call.

    For a flow of a user's own, `carry(__name__)`: otherwise a worker would look for the module and not find it.
    """
    cloudpickle.register_pickle_by_value(sys.modules[module])


class _Retries(TypedDict):
    retries: int
    retry_delay_seconds: list[float]
    retry_condition_fn: Callable[[Task[..., Any], TaskRun, State[Any]], bool]


# For `@task(**RETRIES)`. A PostgreSQL that recovers from a crash is back within the first seconds. There is no timeout:
# Prefect cannot interrupt a task on a Dask worker; the core's own timeouts bound what it waits for.
RETRIES: _Retries = {"retries": 3, "retry_delay_seconds": [2.0, 10.0, 60.0], "retry_condition_fn": retryable}


class _ArchiveTaskRunner(DaskTaskRunner):
    """The archive's long-lived Dask scheduler; its address is read from the settings when a flow runs."""

    def __enter__(self) -> Self:
        self.address = load_settings().scheduler_address
        super().__enter__()  # type: ignore[no-untyped-call]  # prefect-dask leaves it unannotated
        return self


def waiting_task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """What flows run tasks on that mostly wait for remote AEs: threads of the flow's process. A Dask worker would do one at a time."""
    return cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=_WAITING))


def archive_task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """What flows run their tasks on."""
    return cast("TaskRunner[PrefectFuture[Any]]", _ArchiveTaskRunner())
