"""Durability at each step of a C-STORE: `python -m bench.steps [--rounds 20] [--quick] [--step NAME] [--seed N]`.

Two clients send while strace kills the process as it enters the call that begins a step, so many times for each step. The table
of steps below says which calls those are. Whatever is struck is started again at once.
"""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from bench.durability.senders import Fleet
from bench.durability.site import Site, is_over, running_site, workplace
from bench.durability.strace import Fault, injected, struck
from bench.durability.verdict import Table, Verdict, chosen_rounds, options
from pacs_core.storage.segments import BLOCK, SUFFIX
from tests.support.catalog import Catalogs
from tests.support.waiting import eventually

_SENDERS = 2
_STRUCK_WITHIN = 60.0
_JOURNAL = 32 << 20  # bytes that a listener preallocates: a few segments, which are soon used again
_SETTINGS = {"PACS_LOG_LEVEL": "error", "PACS_JOURNAL_BYTES": str(_JOURNAL)}  # a log would be most of what is written

Files = Callable[[Site], Sequence[Path]]
Deed = Callable[[Site, psutil.Process], None]


def _any(_: Site) -> Sequence[Path]:
    """Every file and socket."""
    return ()


def _segments(site: Site) -> Sequence[Path]:
    """The journal of all processes."""
    return eventually(lambda: sorted(site.journal.glob(f"*{SUFFIX}")), what="a segment")


def _written(site: Site) -> Sequence[Path]:
    """The first listener's segments, once they are all made and it has begun to write to one of them."""
    _all_made(site)
    return eventually(lambda: own if any(map(_is_begun, own := _own(site))) else [], what="a segment that is written to")


def _all_made(site: Site) -> Sequence[Path]:
    """Every file and socket, once no more segments are preallocated."""
    eventually(lambda: sum(path.stat().st_size for path in _own(site)) >= _JOURNAL, what="all segments preallocated")
    return ()


def _used_before(site: Site) -> Sequence[Path]:
    """The first listener's segments that were written and are not being written: what comes next to them is their next use."""
    return eventually(lambda: [path for path in _own(site)[:-1] if _is_begun(path)], within=_STRUCK_WITHIN, what="a segment that is full")


def _own(site: Site) -> list[Path]:
    """The first listener's segments, the one that it writes to last."""
    own = [path for path in site.journal.glob(f"*{SUFFIX}") if path.name.split("-")[1] == str(site.listener(0).pid)]
    return sorted(own, key=lambda path: (_is_begun(path), path.stat().st_mtime_ns))


def _is_begun(segment: Path) -> bool:
    with segment.open("rb") as file:
        return any(file.read(BLOCK))


def _nothing(_: Site, __: psutil.Process) -> None:
    """Sending is enough."""


def _abandon_segments(site: Site, committer: psutil.Process) -> None:
    """A listener dies, and what it leaves in the journal is removed when it is dealt with. Not the one that keeps the committer."""
    number = next(number for number in range(len(site.listeners)) if site.listener(number).pid != committer.ppid())
    site.listeners[number].kill()
    site.launch(number)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a process is killed.

    Attributes:
        name: of the step.
        victim: the first listener, or the process that indexes.
        calls: that begin the step.
        latest: the kill strikes at the 1st to so many-th of them in a thread, at random.
        files: only calls on these.
        size: of the instances that are sent, in bytes; None: random.
        provoke: what makes the step come.
    """

    name: str
    victim: str
    calls: Sequence[str]
    latest: int
    files: Files = _any
    size: int | None = None
    provoke: Deed = _nothing


_LISTENER, _COMMITTER = "listener", "committer"
_WRITES = ("pwritev2", "pwritev", "pwrite64", "write")
_SYNCS = ("fsync", "fdatasync")
_LARGE = 1_500_000  # bytes: more than the journal takes

# fmt: off
STEPS = (
    # step                           who         call                                 at most the   of which files
    Step("write: the journal",       _LISTENER,  _WRITES,                             20,           _written),
    Step("sync: the journal",        _LISTENER,  _SYNCS,                              10,           _written),
    Step("acknowledge",              _LISTENER,  ("sendto", "sendmsg"),               10),
    Step("write: a large object",    _LISTENER,  ("write",),                          30,           _all_made, size=_LARGE),
    Step("sync: a large object",     _LISTENER,  _SYNCS,                              10,           size=_LARGE),
    Step("rename: a large object",   _LISTENER,  ("link", "linkat"),                  5,            size=_LARGE),
    Step("write: a small object",    _COMMITTER, ("write",),                          20),
    Step("rename: a small object",   _COMMITTER, ("link", "linkat"),                  20),
    Step("index commit: database",   _COMMITTER, ("sendto", "sendmsg"),               60),
    Step("index commit: progress",   _COMMITTER, ("rename", "renameat", "renameat2"), 5),
    Step("journal trim: objects",    _COMMITTER, _SYNCS,                              20),
    Step("journal trim: removal",    _COMMITTER, ("unlink", "unlinkat"),              1,            _segments, provoke=_abandon_segments),
    Step("journal trim: reuse",      _LISTENER,  _WRITES,                             2,            _used_before, size=500_000),
)
# fmt: on


def main() -> None:
    """Kill, compare and print."""
    parser = options(__doc__, rounds=20, quick=2)
    parser.add_argument("--step", action="append", help="only the steps whose names begin so; repeatable")
    chosen = parser.parse_args()
    steps = [step for step in STEPS if not chosen.step or step.name.startswith(tuple(chosen.step))]
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, steps=steps, rounds=chosen_rounds(chosen), seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, steps: Sequence[Step], rounds: int, seed: int | None = None) -> Verdict:
    """So many kills at each step, in a home for each step."""
    seed = int(time.time()) if seed is None else seed
    rng = random.Random(seed)  # noqa: S311  # moments, not secrets
    verdict = Verdict(f"steps --seed {seed}")
    table = Table("killed at", step="<26", kills=">5", acknowledged=">12", wrong=">5", struck="<1")
    for number, step in enumerate(steps):
        home = folder / f"step{number}"
        struck: Counter[str] = Counter()
        with running_site(home, catalogs.new(), listeners=2, settings=_SETTINGS) as site:
            with Fleet(site.scp, site.oracle, count=_SENDERS, seed=rng.getrandbits(48), size=step.size) as fleet:
                for attempt in range(rounds):
                    what = _strike(site, step, rng.randint(1, step.latest), home / f"strace{attempt}")
                    verdict.require(bool(what), f"{step.name}: nothing was struck within {_STRUCK_WITHIN:g} s")
                    struck[what] += 1
                fleet.wait_for_more(_SENDERS)
            findings = site.settle()
        verdict.count("kills", rounds - struck[""])
        wrong = findings.enter(verdict)
        table.row(step.name, rounds - struck[""], findings.acknowledged, wrong, _summary(struck))
        if not wrong:
            shutil.rmtree(home)
    return verdict


def _strike(site: Site, step: Step, when: int, log: Path) -> str:
    """One kill and what follows it; what was struck, empty if nothing was."""
    victim = site.listener(0) if step.victim == _LISTENER else site.await_committer()
    fault = Fault(step.calls, "signal=SIGKILL", when, step.files(site))
    with injected(victim, fault, log):
        step.provoke(site, victim)
        try:
            eventually(partial(is_over, victim), within=_STRUCK_WITHIN, what=f"the death at {step.name}")
        except AssertionError:
            return ""
    if step.victim == _LISTENER:
        site.launch(0)
    site.await_ready()
    site.await_committer(other_than=[victim.pid])
    return struck(log)


def _summary(struck: Counter[str]) -> str:
    return ", ".join(f"{count} × {what}" for what, count in struck.most_common() if what)


if __name__ == "__main__":
    main()
