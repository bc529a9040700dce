"""Print cleanup: what was printed and has been kept long enough is removed."""

from dataclasses import asdict
from typing import Annotated, Any

from prefect import State, flow
from prefect.states import Completed
from pydantic import Field

from flows.reporting import RunRecord, publish_summary, publish_table
from tasks.prints import expired_prints, remove_prints


@flow(name="print-cleanup", validate_parameters=True)
def print_cleanup(keep_days: Annotated[float | None, Field(ge=0, le=3650)] = None, dry_run: bool = False) -> State[Any]:
    """Remove prints some days after they were made: pages, documents, and what their requestors called them.

    Args:
        keep_days: For how many days a print is kept. Without it: the setting `print_keep_days`.
        dry_run: Only look: show what would be removed.
    """
    with RunRecord("print-cleanup", {"keep_days": keep_days, "dry_run": dry_run}) as record:
        prints = expired_prints(keep_days)
        rows = [asdict(each) for each in prints]
        if dry_run:
            sentence = f"dry run: {len(prints)} prints would be removed"
            publish_table("print-cleanup-plan", sentence, rows)
            record.finish("planned", {"prints": len(prints)})
            return Completed(message=sentence)
        remove_prints(prints)
        sentence = f"{len(prints)} prints removed"
        publish_table("print-cleanup-result", sentence, rows)
        publish_summary("print-cleanup-summary", "Print cleanup", sentence, {"prints": len(prints)})
        record.finish("completed", {"prints": len(prints)})
    return Completed(message=sentence)
