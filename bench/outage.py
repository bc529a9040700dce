"""Ingest without PostgreSQL: `python -m bench.outage [--rounds 20] [--quick] [--seconds 60] [--seed N]`.

Two clients send all the time while PostgreSQL is away for a minute: killed with kill -9 and stopped in turn. Nothing may be refused,
nothing lost, and a minute after it is back the index has what was acknowledged before that.
"""

import math
import random
import shutil
import time
from pathlib import Path

from bench.durability.oracle import NO_ANSWER, Oracle
from bench.durability.senders import Fleet
from bench.durability.site import CAUGHT_UP_WITHIN, running_site, workplace
from bench.durability.verdict import Table, Verdict, chosen_rounds, options
from tests.support.catalog import Catalogs
from tests.support.waiting import eventually

_LISTENERS, _SENDERS = 2, 2
_PAUSE = 0.1  # seconds between two instances of a client, or twenty minutes would fill the disk
_SETTINGS = {"PACS_LOG_LEVEL": "warning"}


def main() -> None:
    """Take PostgreSQL away, compare and print."""
    parser = options(__doc__, rounds=20, quick=2)
    parser.add_argument("--seconds", type=float, default=60, help="how long PostgreSQL is away each time (default 60)")
    chosen = parser.parse_args()
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, rounds=chosen_rounds(chosen), seconds=chosen.seconds, seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, rounds: int, seconds: float, seed: int | None = None) -> Verdict:
    """So many outages of one archive."""
    seed = int(time.time()) if seed is None else seed
    home = folder / "archive"
    rng = random.Random(seed)  # noqa: S311  # sizes, not secrets
    verdict = Verdict(f"outage --seed {seed}")
    title = f"{seconds:g} s without PostgreSQL"
    table = Table(
        title, round=">5", PostgreSQL="<10", acknowledged_meanwhile=">22", refused=">7", longest_answer=">14", caught_up_after=">15"
    )
    with running_site(home, catalogs.new(), listeners=_LISTENERS, settings=_SETTINGS) as site:
        with Fleet(site.scp, site.oracle, count=_SENDERS, seed=rng.getrandbits(48), pause=_PAUSE) as fleet:
            for number in range(rounds):
                fleet.wait_for_more(_SENDERS)
                acknowledged, refused = fleet.acknowledged, fleet.refused
                killed = number % 2 == 0
                _interrupt(catalogs, fleet, seconds, kill=killed)
                taken = fleet.acknowledged - acknowledged
                caught_up = site.await_indexed(within=2 * CAUGHT_UP_WITHIN)
                verdict.require(caught_up < math.inf, f"round {number}: the index never caught up")
                verdict.require(taken > 0, f"round {number}: nothing was acknowledged while PostgreSQL was away")
                verdict.within(caught_up, CAUGHT_UP_WITHIN, f"round {number}: the index caught up")
                table.row(number, "killed" if killed else "stopped", taken, fleet.refused - refused, fleet.longest, caught_up)
        findings = site.settle()
    oracle = Oracle.read(site.oracle)
    refusals, unanswered = oracle.refusals, oracle.statuses[NO_ANSWER]
    verdict.count("outages", rounds)
    verdict.count("refused", refusals.total())
    verdict.problems += [f"{count} × refused with {status:04X}" for status, count in refusals.items()]
    verdict.count("unanswered", unanswered)
    verdict.require(not unanswered, f"{unanswered} instances were not answered, though no listener had ended")
    findings.enter(verdict)
    if not verdict.problems:
        shutil.rmtree(home)
    return verdict


def _interrupt(catalogs: Catalogs, fleet: Fleet, seconds: float, *, kill: bool) -> None:
    """PostgreSQL is away for so long, and for at least one instance of each client."""
    if kill:
        catalogs.kill()
    else:
        catalogs.stop()
    until = time.monotonic() + seconds
    fleet.wait_for_more(_SENDERS)
    eventually(lambda: time.monotonic() >= until, within=seconds + CAUGHT_UP_WITHIN, what="the end of the outage")
    catalogs.start()


if __name__ == "__main__":
    main()
