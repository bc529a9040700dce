"""index: backup, restore and rebuild, for when there is no flow engine, because its database has gone with the index."""

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import uuid4

import typer

from pacs_core.cli import output
from pacs_core.cli.errors import Failed
from pacs_core.errors import ConfigurationError
from pacs_core.lifecycle.rebuilding import Merged, ObjectShard, Rebuild, Scanned, Unindexed
from pacs_core.settings import Settings, load_settings
from pacs_core.supervisor.runtime import prepare_home
from pacs_core.telemetry import logging as telemetry
from pacs_core.wiring import index, operations


def rebuild(home: Path | None, *, into_existing: bool, yes: bool) -> None:
    """Make the index anew. Failed if an object could not be indexed; each of those has a line that says why."""
    settings = _settings(home)
    index.prepare(settings)
    with closing(operations.rebuild(settings)) as process:
        process.begin(into_existing=into_existing)
        shards = [shard for tier in process.tiers for shard in process.shards(tier)]
        objects, size = sum(shard.objects for shard in shards), sum(shard.bytes for shard in shards)
        _confirm(f"Read {objects} objects ({size} bytes) and index them?", yes=yes)
        scanned = _scan(settings, process, shards)
        merged = _merge(process, shards, scanned, into_existing=into_existing)
    problems = Counter(problem.reason.value for problem in (*scanned.problems, *merged.problems))
    output.line(
        f"{merged.inserted} instances indexed, {merged.present} were, {merged.relocated} relocated, {merged.copies} further copies"
        + "".join(f", {count} {reason}" for reason, count in problems.items())
    )
    if problems:
        raise Failed


def _scan(settings: Settings, process: Rebuild, shards: Sequence[ObjectShard]) -> Scanned:
    total = Scanned()
    with output.progress("shards read", len(shards)) as progression:
        for scanned in _each_scanned(settings, process, shards):
            progression.advance()
            total += scanned
            for problem in scanned.problems:
                progression.line(_told(problem))
    return total


def _each_scanned(settings: Settings, process: Rebuild, shards: Sequence[ObjectShard]) -> Iterator[Scanned]:
    """On all cores, where there is enough to do; looking for attributes keeps the interpreter busy."""
    workers = min(os.cpu_count() or 1, len(shards) // 2)
    if workers < 2:
        yield from map(process.scan, shards)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(partial(_scan_in_child, settings.home), shards)


def _scan_in_child(home: Path, shard: ObjectShard) -> Scanned:
    return operations.rebuild(load_settings(home)).scan(shard)


def _merge(process: Rebuild, shards: Sequence[ObjectShard], scanned: Scanned, *, into_existing: bool) -> Merged:
    with output.progress("instances indexed", scanned.objects - len(scanned.problems)) as progression:

        def committed(count: int) -> None:
            for _ in range(count):
                progression.advance()

        merged = process.merge(shards, into_existing=into_existing, run=f"command-{uuid4()}", committed=committed)
        for problem in merged.problems:
            progression.line(_told(problem))
    return merged


def _told(problem: Unindexed) -> str:
    return f"{problem.tier}: {problem.path}: {problem.reason}: {problem.detail}"


def backup(home: Path | None, destination: str, keep: int) -> None:
    """Back the index up."""
    settings = _settings(home)
    with closing(index.index_backup(settings)) as catalog, output.progress("files written") as progression:
        made = operations.backups(settings, _absolute(settings, destination)).make(catalog, keep=keep, told=lambda _: progression.advance())
    output.line(f"{made.name}: {made.rows} rows, {made.bytes} bytes, snapshot {made.snapshot}")


def backups(home: Path | None, destination: str, form: str) -> None:
    """Every backup."""
    settings = load_settings(home)
    rows = [(b.name, b.made_at, b.program, b.rows, b.bytes) for b in operations.backups(settings, _absolute(settings, destination)).all()]
    output.print_rows(("backup", "made_at", "version", "rows", "bytes"), rows, form)


def restore(home: Path | None, name: str, destination: str, *, overwrite: bool, yes: bool) -> None:
    """Make the index what a backup says."""
    settings = _settings(home)
    there = operations.backups(settings, _absolute(settings, destination))
    chosen = there.get(name)
    _confirm(f"Make the index what it was at {chosen.made_at}{', in place of what it is' if overwrite else ''}?", yes=yes)
    index.prepare(settings)
    with closing(index.index_backup(settings)) as catalog, output.progress("files") as progression:
        there.restore(catalog, chosen.name, overwrite=overwrite, told=lambda _: progression.advance())
    output.line(f"{chosen.rows} rows are back; `pacs index rebuild --into-existing` finds what arrived or moved since {chosen.made_at}")


def digests(home: Path | None, form: str) -> None:
    """What two indexes are compared by."""
    output.print_rows(("table", "sha256"), list(index.index_digests(load_settings(home)).items()), form)


def _settings(home: Path | None) -> Settings:
    settings = load_settings(home)
    telemetry.configure("error")  # what happens is told as progress
    prepare_home(settings.home)
    return settings


def _absolute(settings: Settings, destination: str) -> str:
    """A relative path is one of the user's working directory."""
    return destination if not destination or "://" in destination or destination in settings.tiers else str(Path(destination).absolute())


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError("nobody can be asked here: say --yes")
    if not typer.confirm(question):
        raise Failed
