"""Backup and restore: the index and the operational tables, all of one moment."""

from dataclasses import asdict
from typing import Annotated, Any

from prefect import State, flow
from prefect.states import Completed, Failed
from pydantic import Field

from flows.rebuild import rebuild
from flows.reporting import RunRecord, publish_summary, publish_table
from pacs_core.lifecycle.backup import Backup
from tasks.backup import find_backup, list_backups, make_backup, restore_backup
from tasks.policy import archive_task_runner

Destination = Annotated[str, Field(max_length=1000)]


@flow(name="backup", task_runner=archive_task_runner(), validate_parameters=True)
def backup(destination: Destination = "", keep: Annotated[int, Field(ge=1, le=1000)] = 14, dry_run: bool = False) -> State[Any]:
    """Back up the index and the operational tables, as of the moment in which it begins. The objects are no part of it.

    Args:
        destination: A tier by its name, an absolute path or a URL. Empty: backups in the home of the archive.
        keep: How many backups stay at the destination; older ones are removed.
        dry_run: Only look: show the backups that are there, and which of them would be removed.
    """
    with RunRecord("backup", {"destination": destination, "keep": keep, "dry_run": dry_run}) as record:
        if dry_run:
            return _planned(destination, keep, record)
        made = make_backup.submit(destination, keep).result()
        sentence = f"{made.name}: {made.rows} rows, {made.bytes} bytes"
        _publish("backup", sentence, made)
        record.finish("completed", _figures(made))
    return Completed(message=sentence)


@flow(name="restore", task_runner=archive_task_runner(), validate_parameters=True)
def restore(
    destination: Destination = "",
    backup: Annotated[str, Field(max_length=80, pattern=r"^[A-Za-z0-9-]*$")] = "",
    overwrite: bool = False,
    then_rebuild: bool = False,
    dry_run: bool = False,
) -> State[Any]:
    """Make the index and the operational tables what a backup says. All its files are checked before anything changes.

    Args:
        destination: Where the backup is: a tier by its name, an absolute path or a URL. Empty: backups in the home of the archive.
        backup: The backup's name. Empty: the newest.
        overwrite: Replace an index that is not empty; otherwise that is refused.
        then_rebuild: Also find on the tiers what arrived or moved since the backup, which takes as long as reading every object.
        dry_run: Only look: show what is in the backup.
    """
    parameters = {
        "destination": destination,
        "backup": backup,
        "overwrite": overwrite,
        "then_rebuild": then_rebuild,
        "dry_run": dry_run,
    }
    with RunRecord("restore", parameters) as record:
        found = find_backup.submit(destination, backup).result()
        if dry_run:
            sentence = f"dry run: {found.name} of {found.made_at} has {found.rows} rows"
            _publish("restore", sentence, found)
            record.finish("planned", _figures(found))
            return Completed(message=sentence)
        restore_backup.submit(destination, found.name, overwrite=overwrite).result()
        record.renew()  # its row has gone with all others
        sentence = f"{found.rows} rows of {found.made_at} are back"
        _publish("restore", sentence, found)
        state = rebuild(into_existing=True, return_state=True) if then_rebuild else None
        is_whole = state is None or state.is_completed()
        sentence += f"; rebuild: {state.message}" if state else ""
        record.finish("completed" if is_whole else "failed", _figures(found))
    return Completed(message=sentence) if is_whole else Failed(message=sentence)


def _planned(destination: str, keep: int, record: RunRecord) -> State[Any]:
    there = list_backups.submit(destination).result()
    going = {each.name for each in there[: max(0, len(there) + 1 - keep)]}
    sentence = f"dry run: {len(there)} backups are there, {len(going)} of them would be removed"
    rows = [{"backup": each.name, "made_at": each.made_at, "rows": each.rows, "removed": each.name in going} for each in there]
    publish_table("backup-plan", sentence, rows)
    record.finish("planned", {"backups": len(there), "removed": len(going)})
    return Completed(message=sentence)


def _publish(flow: str, sentence: str, shown: Backup) -> None:
    publish_table(f"{flow}-files", sentence, [asdict(file) for file in shown.files])
    publish_summary(f"{flow}-summary", flow.capitalize(), sentence, _figures(shown))


def _figures(shown: Backup) -> dict[str, object]:
    return {
        "backup": shown.name,
        "made_at": shown.made_at,
        "program": shown.program,
        "snapshot": shown.snapshot,
        "rows": shown.rows,
        "bytes": shown.bytes,
    }
