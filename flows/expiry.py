"""What the flows have in common that remove what has been kept for its time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import State
from prefect.states import Completed

from flows.reporting import RunRecord, publish_summary, publish_table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Kept = TypeVar("_Kept", bound="DataclassInstance")


def remove_expired(
    flow: str, parameters: Mapping[str, object], what: str, find: Callable[[], Sequence[_Kept]], remove: Callable[[Sequence[_Kept]], int]
) -> State[Any]:
    """Remove what is found, or with `dry_run` among the parameters only say so; the table, the summary and the record of the run.

    Args:
        what: that is, such as `items`.
        find: what has been kept long enough, as the table shows it.
        remove: removes it; how many.
    """
    with RunRecord(flow, parameters) as record:
        found = find()
        rows = [asdict(each) for each in found]
        if parameters["dry_run"]:
            sentence = f"dry run: {len(rows)} {what} would be removed"
            publish_table(f"{flow}-plan", sentence, rows)
            record.finish("planned", {what: len(rows)})
            return Completed(message=sentence)
        removed = remove(found)
        sentence = f"{removed} {what} removed"
        publish_table(f"{flow}-result", sentence, rows)
        publish_summary(f"{flow}-summary", flow.replace("-", " ").capitalize(), sentence, {what: removed})
        record.finish("completed", {what: removed})
    return Completed(message=sentence)
