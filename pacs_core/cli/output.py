"""What commands print: rows as table, csv, json or Parquet; progress on a terminal, plain lines elsewhere."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pacs_core.errors import ConfigurationError

Row = Sequence[object]
# A line of plain progress at most every so many items.
_PLAIN_EVERY = 100


def line(text: str) -> None:
    """Print a result of one line."""
    sys.stdout.write(text + "\n")


def print_rows(columns: Sequence[str], rows: Iterable[Row], form: str) -> None:
    """Print rows to standard output in the form `table`, `csv`, `json` or `parquet` (for redirection to a file)."""
    {"table": _table, "csv": _csv, "json": _json, "parquet": _parquet}[form](columns, rows)


def print_table(columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Print rows as a table; how many there were."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    count = 0
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
        count += 1
    console = Console(
        soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 10_000, markup=False, highlight=False, emoji=False
    )
    console.print(table)
    return count


def _table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    count = print_table(columns, rows)
    line(f"({count} {'row' if count == 1 else 'rows'})")


def _csv(columns: Sequence[str], rows: Iterable[Row]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def _json(columns: Sequence[str], rows: Iterable[Row]) -> None:
    sys.stdout.write("[")
    for index, row in enumerate(rows):
        sys.stdout.write(("," if index else "") + "\n" + json.dumps(dict(zip(columns, row, strict=True)), default=str, ensure_ascii=False))
    sys.stdout.write("\n]\n")


def _parquet(columns: Sequence[str], rows: Iterable[Row]) -> None:
    write_parquet(pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows]))


def write_parquet(table: pa.Table) -> None:
    """Write an Arrow table to standard output as a Parquet file."""
    if sys.stdout.isatty():
        raise ConfigurationError("Parquet is binary: redirect the output to a file")
    pa.parquet.write_table(table, sys.stdout.buffer)


class Progression(Protocol):
    """Told of every item that is done."""

    def advance(self, *, total: int | None = None) -> None:
        """One more; `total` when it has become known or has changed."""

    def line(self, text: str) -> None:
        """Print a line that stays."""


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Progression]:
    """Progress on standard error: a bar on a terminal, now and then a plain line elsewhere."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            yield _Bar(bar, what, total)
    else:
        plain = _Plain(what, total)
        yield plain
        plain.finish()


class _Bar:
    def __init__(self, bar: Progress, what: str, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(what, total=total)

    def advance(self, *, total: int | None = None) -> None:
        self._bar.update(self._task, advance=1, total=total)  # None leaves it as it is

    def line(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)


class _Plain:
    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total, self._done = what, total, 0

    def advance(self, *, total: int | None = None) -> None:
        self._done += 1
        self._total = self._total if total is None else total
        if self._done % _PLAIN_EVERY == 0:
            self.finish()

    def finish(self) -> None:
        sys.stderr.write(f"{self._what}: {self._done}{'' if self._total is None else f' of {self._total}'}\n")

    def line(self, text: str) -> None:
        sys.stderr.write(text + "\n")
