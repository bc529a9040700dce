"""Durability on a full disk: `python -m bench.full [--rounds 1] [--quick] [--seed N]`. Needs root, for a tmpfs of 64 MB.

The whole home is on the small disk, beside a ballast. 100 MB are sent in various sizes: each answer is success or A700, and what
was refused leaves nothing behind. When the ballast is removed, instances are taken in again within 5 s.
"""

import random
import shutil
import time
from pathlib import Path

from bench.durability.client import Client
from bench.durability.disk import fill, small_disk
from bench.durability.instances import Factory
from bench.durability.oracle import NO_ANSWER, OUT_OF_RESOURCES, SUCCESS, OracleLog
from bench.durability.site import Site, running_site, workplace
from bench.durability.verdict import Table, Verdict, chosen_rounds, options
from tests.support.catalog import Catalogs
from tests.support.waiting import eventually

_DISK = 64  # MB
_BALLAST = 24 << 20
_SENT = 100_000_000
_SIZES = (10_000, 40_000, 200_000, 900_000, 1_500_000, 3_000_000)
_RESUMES_WITHIN = 5.0
_PATIENCE = 60.0


def main() -> None:
    """Fill, compare and print."""
    chosen = options(__doc__, rounds=1, quick=1).parse_args()
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, rounds=chosen_rounds(chosen), seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, rounds: int, seed: int | None = None) -> Verdict:
    """Fill a disk so many times."""
    seed = int(time.time()) if seed is None else seed
    rng = random.Random(seed)  # noqa: S311  # sizes, not secrets
    verdict = Verdict(f"full --seed {seed}")
    title = f"{_SENT // 1_000_000} MB into {_DISK} MB"
    table = Table(title, round=">5", sent=">6", acknowledged=">12", A700=">6", others=">6", resumed_after=">13", wrong=">5")
    for number in range(rounds):
        before = len(verdict.problems)
        # The oracle belongs to the clients, whose disk is not full.
        mount_point, oracle = folder / f"disk{number}", folder / f"oracle{number}"
        with small_disk(mount_point, megabytes=_DISK) as disk:
            ballast = disk / "ballast"
            fill(ballast, _BALLAST)
            with running_site(disk / "site", catalogs.new()) as site:
                site.oracle = oracle
                statuses = _send(site, Factory(rng.getrandbits(48)), rng)
                resumed = _resume(site, ballast, Factory(rng.getrandbits(48)))
                findings = site.settle()
        others = [status for status in statuses if status not in (SUCCESS, OUT_OF_RESOURCES)]
        refused = statuses.count(OUT_OF_RESOURCES)
        verdict.count("sent", len(statuses))
        verdict.count("refused with A700", refused)
        verdict.require(refused > 0, "the disk was never full")
        verdict.problems += [f"refused with {status:04X}" if status >= 0 else "the association was ended" for status in others]
        verdict.within(resumed, _RESUMES_WITHIN, "taking instances in again")
        findings.enter(verdict)
        wrong = len(verdict.problems) - before
        table.row(number, len(statuses), findings.acknowledged, refused, len(others), resumed, wrong)
        mount_point.rmdir()
        if not wrong:
            shutil.rmtree(oracle)
    return verdict


def _send(site: Site, factory: Factory, rng: random.Random) -> list[int]:
    """100 MB, each instance once; the statuses."""
    statuses: list[int] = []
    sent = 0
    with OracleLog(site.oracle, "filling") as log:
        while sent < _SENT:
            try:
                with Client(site.scp) as client:
                    while sent < _SENT:
                        instance = factory.make(rng.choice(_SIZES))
                        sent += len(instance.data)
                        statuses.append(NO_ANSWER)
                        try:
                            statuses[-1] = client.store(instance)
                        finally:
                            log.note(instance, statuses[-1])
            except OSError:
                continue
    return statuses


def _resume(site: Site, ballast: Path, factory: Factory) -> float:
    """Make room; the seconds until an instance is taken in."""
    with OracleLog(site.oracle, "resuming") as log:

        def taken() -> bool:
            instance, status = factory.make(_SIZES[1]), NO_ANSWER
            try:
                with Client(site.scp) as client:
                    status = client.store(instance)
            except OSError:
                return False
            finally:
                log.note(instance, status)
            return status == SUCCESS

        ballast.unlink()
        started = time.monotonic()
        eventually(taken, within=_PATIENCE, what="an instance taken in")
        return time.monotonic() - started


if __name__ == "__main__":
    main()
