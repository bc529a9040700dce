"""Maintain: upkeep of the index."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from prefect import State, flow
from prefect.states import Completed, Failed
from pydantic import Field

from flows.reporting import Progress, RunRecord, publish_summary, publish_table
from pacs_core.index.maintenance import Step
from tasks.maintenance import do_upkeep, plan_upkeep
from tasks.policy import archive_task_runner


@flow(name="maintain", task_runner=archive_task_runner(), validate_parameters=True)
def maintain(keep_days: Annotated[int, Field(ge=1, le=3650)] = 30, dry_run: bool = False) -> State[Any]:
    """Flush and compact the index, forget old snapshots, remove files that nothing needs, refresh statistics.

    What the index said at any instant since the oldest hold that is on, and in the last days, can be asked for afterwards too. The
    archive may go on; commits wait for one step at the longest.

    Args:
        keep_days: For how many days back SQL can ask what the index said then, and what associations did.
        dry_run: Only look: show what there is to do.
    """
    expire_before = datetime.now(UTC) - timedelta(days=keep_days)
    with RunRecord("maintain", {"keep_days": keep_days, "dry_run": dry_run}) as record:
        if dry_run:
            planned = plan_upkeep.submit(expire_before).result()
            sentence = "dry run: " + ", ".join(f"{each.count} {each.what}" for each in planned)
            publish_table("maintain-plan", sentence, [asdict(each) for each in planned])
            record.finish("planned", {each.step.value: each.count for each in planned})
            return Completed(message=sentence)
        rows, failed = _do(expire_before)
        sentence = f"failed: {', '.join(failed)}" if failed else ", ".join(f"{row['step']}: {row['count']} {row['what']}" for row in rows)
        figures = {row["step"]: row["count"] for row in rows}
        publish_table("maintain-result", sentence, rows)
        publish_summary("maintain-summary", "Upkeep of the index", sentence, figures)
        record.finish("failed" if failed else "completed", figures)
    return Failed(message=sentence) if failed else Completed(message=sentence)


def _do(expire_before: datetime) -> tuple[list[dict[str, Any]], list[str]]:
    """Every step after the other; what was done, and what failed, which keeps none of the others."""
    progress = Progress("maintain-progress", len(Step))
    rows, failed = [], []
    for step in Step:
        future = do_upkeep.submit(step, expire_before)
        future.wait()
        if future.state.is_completed():
            rows.append(asdict(future.result()))
        else:
            failed.append(step.value)
        progress.step()
    return rows, failed
