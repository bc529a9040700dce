"""The steps of the `print-cleanup` flow."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prefect import task

from pacs_core.settings import load_settings
from pacs_core.wiring import index, tiers
from tasks.policy import RETRIES


@dataclass(frozen=True, slots=True)
class ExpiredPrint:
    """A print that has been kept long enough."""

    job: str
    calling_ae: str
    pages: int
    ended_at: str
    path: str


@task(**RETRIES)
def expired_prints(keep_days: float | None) -> Sequence[ExpiredPrint]:
    """The prints that are older than that, or than the setting says."""
    settings = load_settings()
    before = datetime.now(UTC) - timedelta(days=settings.print_keep_days if keep_days is None else keep_days)
    return [
        ExpiredPrint(each.uid, each.calling_ae, each.pages, f"{each.ended_at:%Y-%m-%d %H:%M}", each.path)
        for each in index.print_jobs(settings).expired(before)
    ]


@task(**RETRIES)
def remove_prints(prints: Sequence[ExpiredPrint]) -> int:
    """Remove them; how many. Repeatable."""
    settings = load_settings()
    jobs, files = index.print_jobs(settings), tiers.prints(settings)
    for each in prints:
        if each.path:
            files.remove(each.path)
        jobs.removed(each.job)
    return len(prints)
