"""Durability when a sync fails: `python -m bench.fsync [--rounds 50] [--quick] [--n N …] [--seed N]`.

strace makes the n-th fsync or fdatasync of each thread fail with EIO, n = 1 … 50, first in a listener, then in the process that
indexes. What is sent meanwhile is sent again until it is acknowledged. Then everything is killed and started without the fault.

No success may be answered to an instance that was not synced, or whose sync failed, and no sync that failed may be repeated as if
it had worked: the kernel reports a lost page once and forgets it. So what a failed sync was to save has to be written anew, and to
make sure of it such objects are emptied here before the archive starts again.
"""

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.durability.client import Client
from bench.durability.instances import Factory, Instance
from bench.durability.oracle import NO_ANSWER, SUCCESS, OracleLog
from bench.durability.site import Site, running_site, workplace
from bench.durability.strace import Call, Fault, calls, injected, kind_of_file
from bench.durability.sync_rules import ANSWERS, RENAMES, SYNCS, WRITES, lost_objects, repeated_syncs, unfounded_answers
from bench.durability.verdict import Table, Verdict, chosen_rounds, options
from tests.support.catalog import Catalogs
from tests.support.waiting import eventually

_ATTEMPTS = 5
_MORE = 5  # instances after the one that the fault struck
_BURST, _BURSTS = 30, 10  # instances, until a fault has to have struck
_PATIENCE = {"listener": 0.0, "committer": 10.0}  # seconds after a burst
_LARGE = 1_200_000
_SETTINGS = {"PACS_LOG_LEVEL": "error"}
VICTIMS = tuple(_PATIENCE)


@dataclass(frozen=True, slots=True)
class _Trial:
    """What strace saw, and what the client was answered meanwhile, in order, on its one association."""

    seen: Sequence[Call]
    statuses: Sequence[int]


def main() -> None:
    """Fail, compare and print."""
    parser = options(__doc__, rounds=50, quick=3)
    parser.add_argument("--n", type=int, action="append", help="only this n; repeatable")
    chosen = parser.parse_args()
    failing = chosen.n or range(1, chosen_rounds(chosen) + 1)
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, failing=failing, seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, failing: Sequence[int], victims: Sequence[str] = VICTIMS, seed: int | None = None) -> Verdict:
    """Fail each of these syncs in each of these processes, in a home each."""
    seed = int(time.time()) if seed is None else seed
    rng = random.Random(seed)  # noqa: S311  # sizes, not secrets
    verdict = Verdict(f"fsync --seed {seed}")
    table = Table("failed syncs", of_the="<9", n=">3", failed=">6", refused=">7", acknowledged=">12", wrong=">5", which="<1")
    for victim in victims:
        for n in failing:
            home = folder / f"{victim}{n}"
            before = len(verdict.problems)
            with running_site(home, catalogs.new(), settings=_SETTINGS) as site:
                trial = _try(site, victim, n, home / "strace", rng)
                _judge(trial, verdict, f"{victim}, n = {n}")
                _lose(trial.seen)
                site.launch(0)
                site.await_ready()
                findings = site.settle()
            findings.enter(verdict)
            failed = Counter(kind_of_file(call) for call in trial.seen if call.injected)
            refused = sum(status != SUCCESS for status in trial.statuses)
            verdict.count("failed syncs", failed.total())
            verdict.count("refused", refused)
            wrong = len(verdict.problems) - before
            which = ", ".join(f"{count} × {kind}" for kind, count in failed.most_common())
            table.row(victim, n, failed.total(), refused, findings.acknowledged, wrong, which)
            if not wrong:
                shutil.rmtree(home)
    return verdict


def _try(site: Site, victim: str, n: int, log: Path, rng: random.Random) -> _Trial:
    """Send until a sync has failed, and some more, each instance until it is acknowledged; then everything is killed."""
    process = site.listener(0) if victim == "listener" else site.await_committer()
    fault = Fault(SYNCS, "error=EIO", n)
    tracing = injected(process, fault, log, traced=(*WRITES, *RENAMES, *ANSWERS))
    with tracing, Client(site.scp) as client, OracleLog(site.oracle, "client") as oracle:
        statuses = list(_send(client, oracle, Factory(rng.getrandbits(48)), log, patience=_PATIENCE[victim]))
        client.release()
        site.kill_all()  # while it is traced: what is written anew to the very end has to be seen
    return _Trial(list(calls(log)), statuses)


def _send(client: Client, oracle: OracleLog, factory: Factory, log: Path, *, patience: float) -> Iterator[int]:
    """The statuses of all attempts. Bursts, because some syncs wait for the end of one."""
    for _ in range(_BURSTS):
        for number in range(_BURST):
            yield from _send_one(client, oracle, factory.make(_LARGE if number % 4 == 3 else None))
            if _has_struck(log):
                break
        with suppress(AssertionError):
            eventually(lambda: _has_struck(log), within=patience, what="a failed sync")
        if _has_struck(log):
            break
    for _ in range(_MORE):
        yield from _send_one(client, oracle, factory.make())


def _send_one(client: Client, oracle: OracleLog, instance: Instance) -> Iterator[int]:
    for _ in range(_ATTEMPTS):
        status = NO_ANSWER
        try:
            status = client.store(instance)
        finally:
            oracle.note(instance, status)
        yield status
        if status == SUCCESS:
            return


def _has_struck(log: Path) -> bool:
    return "(INJECTED)" in log.read_text()


def _judge(trial: _Trial, verdict: Verdict, where: str) -> None:
    verdict.require(any(call.injected for call in trial.seen), f"{where}: no sync failed")
    for problem in (*unfounded_answers(trial.seen, trial.statuses), *repeated_syncs(trial.seen)):
        verdict.problems.append(f"{where}: {problem}")


def _lose(seen: Sequence[Call]) -> None:
    """Empty the objects of which a power failure might leave nothing."""
    for path in map(Path, lost_objects(seen)):
        if path.exists():
            path.write_bytes(b"")


if __name__ == "__main__":
    main()
