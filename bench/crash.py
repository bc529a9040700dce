"""Durability against kill -9: `python -m bench.crash [--rounds 500] [--quick] [--seed N]`.

Four clients send to two listeners on one port while, at random moments, a listener, the process that indexes, or everything at
once is killed and started again. Nothing that was acknowledged may be lost, differ or be indexed twice. About every tenth kill
strikes while the archive is still starting.
"""

import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from bench.durability.senders import Fleet
from bench.durability.site import Site, kill, running_site, workplace
from bench.durability.verdict import Table, Verdict, chosen_rounds, distribution, options
from tests.support.catalog import Catalogs

_LISTENERS, _SENDERS = 2, 4
_STAGE = 50  # kills in one home; then everything is compared and the disk is freed
_READY_WITHIN = 10.0
_MOST_BETWEEN = 40  # acknowledged instances between two kills
_SHARE_AT_START = 0.1
_START = 1.5  # seconds in which a listener starts, more or less
_SETTINGS = {"PACS_LOG_LEVEL": "warning"}


class Victim(StrEnum):
    """What is killed."""

    LISTENER = "a listener"
    COMMITTER = "the committer"
    ALL = "everything"


@dataclass(slots=True)
class _Kills:
    """The kills of one kind, and how long it took each time until the archive answered again."""

    ready: list[float] = field(default_factory=list)
    count: int = 0


def main() -> None:
    """Kill, compare and print."""
    parser = options(__doc__, rounds=500, quick=20)
    chosen = parser.parse_args()
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, rounds=chosen_rounds(chosen), seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, rounds: int, seed: int | None = None) -> Verdict:
    """So many kills, in stages with a home each."""
    seed = int(time.time()) if seed is None else seed
    rng = random.Random(seed)  # noqa: S311  # moments, not secrets
    verdict = Verdict(f"crash --seed {seed}")
    kills = {victim: _Kills() for victim in Victim}
    table = Table("kill -9", stage=">5", kills=">5", acknowledged=">12", objects=">8", rows=">8", wrong=">5")
    for number, count in enumerate(_stages(rounds)):
        home = folder / f"stage{number}"
        with running_site(home, catalogs.new(), listeners=_LISTENERS, settings=_SETTINGS) as site:
            with Fleet(site.scp, site.oracle, count=_SENDERS, seed=rng.getrandbits(48)) as fleet:
                for _ in range(count):
                    _kill_once(site, fleet, rng, kills)
                fleet.wait_for_more(_SENDERS)
            findings = site.settle()
        wrong = findings.enter(verdict)
        table.row(number, count, findings.acknowledged, findings.objects, findings.rows, wrong)
        if not wrong:
            shutil.rmtree(home)
    _conclude(verdict, kills)
    return verdict


def _stages(rounds: int) -> Iterator[int]:
    for start in range(0, rounds, _STAGE):
        yield min(_STAGE, rounds - start)


def _kill_once(site: Site, fleet: Fleet, rng: random.Random, kills: dict[Victim, _Kills]) -> None:
    """Let some instances arrive, kill, start again, wait until it answers."""
    fleet.wait_for_more(rng.randrange(_MOST_BETWEEN))
    victim = rng.choice(list(Victim))
    _kill_and_launch(site, victim, rng)
    if rng.random() < _SHARE_AT_START:
        time.sleep(rng.uniform(0, _START))  # not a wait for anything, but the random moment itself
        _kill_and_launch(site, victim, rng)
        kills[victim].count += 1
    started = time.monotonic()
    site.await_ready()
    kills[victim].ready.append(time.monotonic() - started)
    kills[victim].count += 1
    site.await_committer()


def _kill_and_launch(site: Site, victim: Victim, rng: random.Random) -> None:
    """As a supervisor would: what has died is started at once. The process that indexes is a listener's to start."""
    numbers: Sequence[int] = range(len(site.listeners))
    match victim:
        case Victim.COMMITTER:
            for process in site.committers():
                kill(process)
            return
        case Victim.LISTENER:
            numbers = [rng.choice(numbers)]
            site.listeners[numbers[0]].kill()
        case Victim.ALL:
            site.kill_all()
    for number in numbers:
        site.launch(number)


def _conclude(verdict: Verdict, kills: Mapping[Victim, _Kills]) -> None:
    table = Table("ready again (median/p99/longest)", killed="<14", kills=">5", ready="<20")
    for victim, killed in kills.items():
        table.row(victim, killed.count, distribution(killed.ready))
        verdict.within(max(killed.ready, default=0.0), _READY_WITHIN, f"ready again after {victim} was killed")
    verdict.counts = {"kills": sum(killed.count for killed in kills.values()), **verdict.counts}


if __name__ == "__main__":
    main()
