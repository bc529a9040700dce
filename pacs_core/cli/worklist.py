"""The worklist by hand and from files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pacs_core.cli import output
from pacs_core.cli.errors import Failed
from pacs_core.errors import ConfigurationError, RequestError
from pacs_core.index.worklist import ATTRIBUTES
from pacs_core.model import Header
from pacs_core.ports.modality import Entry
from pacs_core.settings import load_settings
from pacs_core.wiring import index, orders
from pacs_core.workflow.worklist_files import Found, read_csv, read_json, read_wl

_READERS: Mapping[str, Callable[[bytes], Iterator[Found]]] = {".json": read_json, ".csv": read_csv, ".wl": read_wl}
_AT_ONCE = 500
_OF_A_UNIFIED_STEP = ("ProcedureStepLabel", "SOPInstanceUID")


def add(home: Path | None, attributes: Header) -> None:
    """Schedule one step."""
    try:
        entry = orders.worklist_entry(attributes, "cli")
    except RequestError as exc:
        raise ConfigurationError(str(exc)) from exc
    index.worklist(load_settings(home)).put([entry])
    output.line(f"scheduled: study {entry.attributes['StudyInstanceUID']}, step {entry.attributes['ScheduledProcedureStepID']}")


def import_paths(home: Path | None, paths: Sequence[Path]) -> None:
    """Every file below the paths. Failed if there is anything in them that cannot be scheduled; the rest is."""
    store = index.worklist(load_settings(home))
    total = new = failures = 0
    pending: list[Entry] = []
    for where, found in _items(paths):
        if isinstance(found, Entry):
            pending.append(found)
        else:
            failures += 1
            output.line(f"{where}: not scheduled: {found}")
        if len(pending) >= _AT_ONCE:
            total, new, pending = total + len(pending), new + store.put(pending), []
    total, new = total + len(pending), new + store.put(pending)
    output.line(f"{total} scheduled, {new} of them new" + (f"; {failures} could not be" if failures else ""))
    if failures:
        raise Failed


def list_(home: Path | None, form: str, *, everything: bool) -> None:
    """What is still to be done, or all that is kept."""
    entries = index.worklist(load_settings(home)).entries(everything=everything)
    columns = ("scheduled_at", *ATTRIBUTES, *_OF_A_UNIFIED_STEP, "state", "source")
    rows = (
        [
            e.scheduled_at,
            *(e.attributes[name] for name in ATTRIBUTES),
            *(e.header.get(name, "") for name in _OF_A_UNIFIED_STEP),
            e.state,
            e.source,
        ]
        for e in entries
    )
    output.print_rows(columns, rows, form)


def remove(home: Path | None, accession_or_study: str) -> None:
    """Forget items. ConfigurationError if there are none."""
    removed = index.worklist(load_settings(home)).remove(accession_or_study)
    if not removed:
        raise ConfigurationError(f"{accession_or_study}: there is no such item; `pacs worklist list --all` shows them")
    output.line(f"{removed} removed")


def _items(paths: Sequence[Path]) -> Iterator[tuple[str, Entry | RequestError]]:
    for path in paths:
        files = sorted(child for child in path.rglob("*") if child.suffix.lower() in _READERS) if path.is_dir() else [path]
        for file in files:
            yield from _items_of(file)


def _items_of(file: Path) -> Iterator[tuple[str, Entry | RequestError]]:
    kind = file.suffix.lower()
    if kind not in _READERS:
        raise ConfigurationError(f"{file}: a worklist file ends in {', '.join(_READERS)}")
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{file}: {exc.strerror}") from exc
    for where, found in _READERS[kind](content):
        yield f"{file}: {where}", _entry_of(found, kind.removeprefix("."))


def _entry_of(found: Header | RequestError, source: str) -> Entry | RequestError:
    if isinstance(found, RequestError):
        return found
    try:
        return orders.worklist_entry(found, source)
    except RequestError as exc:
        return exc
