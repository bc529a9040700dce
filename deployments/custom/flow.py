"""study_report: how many studies, series and instances of each modality came in each day, as a table and a CSV file.

A template for a flow of your own: copy this folder, rename things, change the query. docs/custom-flows.md explains it.
"""

import csv
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow, task
from prefect.states import Completed, Failed
from pydantic import Field

from flows.reporting import Progress, RunRecord, publish_summary, publish_table
from pacs_core.settings import load_settings
from pacs_core.wiring import index
from tasks.policy import RETRIES, archive_task_runner, carry

carry(__name__)  # this file is not installed on the Dask workers: its tasks take it with them

_DAYS_A_SHARD = 7
Day = dict[str, Any]


def query(first: date, last: date) -> str:
    """What one shard asks."""
    return f"""
        SELECT CAST(i.received_at AS DATE) AS day, s.Modality AS modality,
               count(DISTINCT s.StudyInstanceUID) AS studies, count(DISTINCT s.SeriesInstanceUID) AS series,
               count(*) AS instances, sum(i.size) AS bytes
        FROM instance i JOIN series s USING (StudyInstanceUID, SeriesInstanceUID)
        WHERE CAST(i.received_at AS DATE) BETWEEN DATE '{first:%Y-%m-%d}' AND DATE '{last:%Y-%m-%d}'
        GROUP BY ALL ORDER BY ALL
    """  # noqa: S608 - dates cannot carry anything into SQL that is not a date


def shards(first: date, last: date) -> Sequence[tuple[date, date]]:
    """The days in pieces that are worth a task each: seconds of work, five to fifty of them a run."""
    starts = range(0, (last - first).days + 1, _DAYS_A_SHARD)
    return [(first + timedelta(n), min(first + timedelta(n + _DAYS_A_SHARD - 1), last)) for n in starts]


@task(task_run_name="{first} to {last}", **RETRIES)
def count_days(first: date, last: date) -> list[Day]:
    """One query on a Dask worker. Repeated only where the archive's errors say that it can help."""
    with index.sql_session(load_settings()) as session:
        result = session.run(query(first, last))
        columns = result.columns
        return [dict(zip(columns, row, strict=True)) for row in result.rows()]


@flow(name="study_report", task_runner=archive_task_runner(), validate_parameters=True)
def study_report(days: Annotated[int, Field(ge=1, le=366)] = 30, directory: str = "", dry_run: bool = False) -> State[Any]:
    """Count what came in, by day and modality.

    Args:
        days: So many days until today.
        directory: The folder that the file study-report.csv is written to. Empty: reports in the archive's home.
        dry_run: Only plan: say what would be asked.
    """
    today = datetime.now(UTC).date()
    planned = shards(today - timedelta(days - 1), today)
    with RunRecord("study_report", {"days": days, "directory": directory, "dry_run": dry_run}) as record:
        if dry_run:
            record.finish("planned", {"shards": len(planned)})
            return Completed(message=f"dry run: {days} days would be counted in {len(planned)} shards")
        rows, unfinished = _counted(planned)
        if unfinished:
            record.finish("failed", {"unfinished": unfinished})
            return Failed(message=f"{unfinished} of {len(planned)} shards could not be counted")
        target = Path(directory or load_settings().home / "reports") / "study-report.csv"
        _write(target, rows)
        figures = {"days": days, "rows": len(rows), "instances": sum(row["instances"] for row in rows)}
        sentence = f"{figures['instances']} instances in {days} days: {target}"
        publish_table("study-report", sentence, [{**row, "day": str(row["day"]), "bytes": int(row["bytes"])} for row in rows])
        publish_summary("study-report-summary", "Study report", sentence, figures)
        record.finish("completed", figures)
    return Completed(message=sentence)


def _counted(planned: Sequence[tuple[date, date]]) -> tuple[list[Day], int]:
    """All rows, and how many shards failed after their retries."""
    futures = [count_days.submit(first, last) for first, last in planned]
    progress, rows, unfinished = Progress("study-report-progress", len(futures)), list[Day](), 0
    for future in futures:
        future.wait()
        if future.state.is_completed():
            rows += future.result()
        else:
            unfinished += 1
        progress.step()
    return rows, unfinished


def _write(target: Path, rows: Sequence[Day]) -> None:
    """The whole file or the one of before: a reader never sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".new")
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["day", "modality", "studies", "series", "instances", "bytes"])
        writer.writeheader()
        writer.writerows(rows)
    new.replace(target)
