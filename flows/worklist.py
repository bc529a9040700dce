"""Worklist cleanup: what was scheduled and whose time is over leaves the worklist."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from prefect import State, flow
from pydantic import Field

from flows.expiry import remove_expired
from tasks.worklist import expired_items, forget_items


@flow(name="worklist-cleanup", validate_parameters=True)
def worklist_cleanup(keep_days: Annotated[int, Field(ge=0, le=3650)] = 7, dry_run: bool = False) -> State[Any]:
    """Remove worklist items some days after they were to begin, whatever has become of them, and the records of older queries,
    of patients who were expected and of event reports that are no longer owed.

    Unified procedure steps are removed so many days after they were over, unless somebody holds a deletion lock on them.

    Args:
        keep_days: For how many days an item stays after the time for which its step was scheduled.
        dry_run: Only look: show what would be removed.
    """
    before = datetime.now() - timedelta(days=keep_days)  # noqa: DTZ005 local time, as schedules are
    parameters = {"keep_days": keep_days, "dry_run": dry_run}
    return remove_expired("worklist-cleanup", parameters, "items", lambda: expired_items(before), lambda _: forget_items(before))
