"""listen, status, import."""

import gc
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from pacs_core import supervisor
from pacs_core.archive.importing import Verdict, count_files
from pacs_core.cli import output
from pacs_core.cli.committing import kept_committer, tell_ready
from pacs_core.cli.errors import Failed
from pacs_core.cli.stopping import leave, serve_until_signalled
from pacs_core.errors import UnavailableError
from pacs_core.index.reader import IndexCounts, TierCounts
from pacs_core.settings import Settings, load_settings
from pacs_core.supervisor.part import PartState, PartStatus
from pacs_core.supervisor.runtime import prepare_home
from pacs_core.telemetry import logging as telemetry
from pacs_core.wiring import index, intake, listening


def listen(home: Path | None, *, with_committer: bool) -> None:
    """Run one listener process until SIGTERM or SIGINT, which it follows in order: nothing that runs is cut off."""
    settings = load_settings(home)
    telemetry.configure(settings.log_level)
    prepare_home(settings.home)
    with listening.listener(settings) as listener, kept_committer(settings) if with_committer else nullcontext():
        gc.freeze()  # what is there now stays; the collector need not look at it again and again
        listener.bind()
        tell_ready()
        serve_until_signalled(listener.serve, listener.stop)
    leave()


def status(home: Path | None, form: str) -> None:
    """Show the parts, the counts and the tiers. Failed unless every part runs."""
    settings = load_settings(home)
    parts = supervisor.status(settings)
    try:
        counts = index.index_reader(settings).counts()
    except UnavailableError:
        counts = None
    if form == "json":
        output.line(json.dumps(_as_json(settings, parts, counts), indent=2))
    else:
        _print_status(settings, parts, counts)
    if any(part.state is not PartState.READY for part in parts):
        raise Failed


def _as_json(settings: Settings, parts: Sequence[PartStatus], counts: IndexCounts | None) -> dict[str, object]:
    return {"home": str(settings.home), "parts": [asdict(part) for part in parts], "held": asdict(counts) if counts else None}


def _print_status(settings: Settings, parts: Sequence[PartStatus], counts: IndexCounts | None) -> None:
    output.line(f"archive at {settings.home}")
    rows = ((p.name, p.state, p.pid, p.restarts, p.address) for p in parts)
    output.print_table(("part", "state", "pid", "restarts", "address"), rows)
    if counts is None:
        output.line("the index does not answer: counts and sizes are not known")
        return
    output.line(f"{counts.patients} patients, {counts.studies} studies, {counts.series} series, {counts.instances} instances")
    nothing = TierCounts(0, 0)
    held = ((name, tier.url, counts.tiers.get(name, nothing)) for name, tier in settings.tiers.items())
    output.print_table(("tier", "where", "instances", "bytes"), ((name, url, tier.instances, tier.bytes) for name, url, tier in held))


def import_paths(home: Path | None, paths: Sequence[Path]) -> None:
    """Take in files. Failed if one was refused; each of those has a line that says why."""
    settings = load_settings(home)
    telemetry.configure("error")  # refusals are told as progress
    prepare_home(settings.home)
    verdicts: Counter[Verdict] = Counter()
    with kept_committer(settings), intake.importer(settings) as importer, output.progress("imported", count_files(paths)) as progression:
        for item in importer.run(paths):
            progression.advance()
            verdicts[item.verdict] += 1
            if item.verdict is Verdict.REFUSED:
                progression.line(f"{item.source}: refused: {item.reason}")
    output.line(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "nothing found")
    if verdicts[Verdict.REFUSED]:
        raise Failed
