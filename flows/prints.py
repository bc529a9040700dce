"""Print cleanup: what was printed and has been kept long enough is removed."""

from typing import Annotated, Any

from prefect import State, flow
from pydantic import Field

from flows.expiry import remove_expired
from tasks.prints import expired_prints, remove_prints


@flow(name="print-cleanup", validate_parameters=True)
def print_cleanup(keep_days: Annotated[float | None, Field(ge=0, le=3650)] = None, dry_run: bool = False) -> State[Any]:
    """Remove prints some days after they were made: pages, documents, and what their requestors called them.

    Args:
        keep_days: For how many days a print is kept. Without it: the setting `print_keep_days`.
        dry_run: Only look: show what would be removed.
    """
    return remove_expired(
        "print-cleanup", {"keep_days": keep_days, "dry_run": dry_run}, "prints", lambda: expired_prints(keep_days), remove_prints
    )
