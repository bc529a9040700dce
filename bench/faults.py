"""Faults while flows work: `python -m bench.faults [--rounds 100] [--quick] [--seed N]`.

Archive, migrate and cleanup work on a home with an S3 (s3rver, which keeps its objects in files) while, at a random moment, the flow's
process, a Dask worker, the S3 or all of them are killed with kill -9. What died is started again, except the flow, which is run a second
time as an administrator would. Then every instance that ever came in must have a good copy, nothing may be indexed where it is not, the
lake must say what the keys say, nothing may be left that nobody knows of, and the work must be done.
"""

import random
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from bench.durability.cluster import ENDS_WITHIN, FLOWS, Cluster, FlowRun, await_moment, running_cluster
from bench.durability.places import Place, Places
from bench.durability.site import workplace
from bench.durability.tiers import home_on, running_s3, tier_on
from bench.durability.verdict import Table, Verdict, chosen_rounds, options
from pacs_core.model import UID
from pacs_core.telemetry import logging
from tests.support.catalog import Catalogs
from tests.support.clouds import DurableS3Server
from tests.support.synthetic import Study
from tests.support.tiered import TieredHome
from tests.support.waiting import eventually

_STUDIES, _INSTANCES = 6, 3  # that come in before each archiving; every second study is there to be removed
_STAYING, _PASSING = "MR", "XA"  # modalities
_UNDO_DAYS = 0.0002  # 17 s: what a cleanup removes, the next one but one destroys
_LONGEST_OUTAGE = 3.0  # seconds without the S3
_FIRST_GUESS = 6.0  # seconds that a flow takes


class Victim(StrEnum):
    """What is killed."""

    FLOW = "the flow"
    WORKER = "a worker"
    S3 = "the S3"
    ALL = "everything"


def main() -> None:
    """Kill, compare and print."""
    chosen = options(__doc__, rounds=100, quick=9).parse_args()
    logging.configure("error")
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, rounds=chosen_rounds(chosen), seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, rounds: int, seed: int | None = None, **settings: object) -> Verdict:
    """So many kills. With the setting `prefect_api_url` the flows use a Prefect server that is there already."""
    seed = int(time.time()) if seed is None else seed
    verdict = Verdict(f"faults --seed {seed}")
    with running_s3(folder) as s3, closing(_home(folder, catalogs, s3, settings)) as home, running_cluster(home) as cluster:
        bench = _Bench(home, cluster, s3, random.Random(seed), verdict)  # noqa: S311  # moments, not secrets
        for number in range(rounds):
            bench.round(number)
    if not verdict.problems:
        shutil.rmtree(folder)
    return verdict


def _home(folder: Path, catalogs: Catalogs, s3: DurableS3Server, settings: Mapping[str, object]) -> TieredHome:
    return home_on(
        s3,
        folder,
        catalogs.new(),
        archives={"vault": tier_on(s3), "packs": tier_on(s3)},
        archivals=[{"name": "objects", "destination": "vault"}, {"name": "packages", "destination": "packs", "form": "zip"}],
        retentions=[{"name": "passing", "modalities": [_PASSING], "undo_days": _UNDO_DAYS}],
        **settings,
    )


class _Work:
    """Studies come in, are archived, moved to the other tier, and half of the new ones removed; over and over."""

    def __init__(self, home: TieredHome) -> None:
        self._home = home
        self._passing: set[UID] = set()
        self.instances: set[UID] = set()

    def begin(self, number: int) -> tuple[str, Mapping[str, str]]:
        """The flow of a round, and its parameters."""
        turn, step = divmod(number, len(FLOWS))
        self._source, rule = ("hot", "down") if turn % 2 == 0 else ("warm", "up")
        if FLOWS[step] == "archive":
            self._take_in()
        return FLOWS[step], {"rule": rule} if FLOWS[step] == "migrate" else {}

    def undone(self, flow: str, places: Iterable[Place]) -> list[str]:
        """What a flow has not done of its work."""
        held = {place for place in places if place.tier in self._home.settings.tiers}
        if flow == "migrate":
            return [f"still on {self._source}: {place}" for place in held if place.tier == self._source]
        if flow == "cleanup":
            return [f"not removed: {place}" for place in held if place.StudyInstanceUID in self._passing]
        copied = {(place.SOPInstanceUID, place.tier) for place in places}
        destinations = self._home.settings.archives
        return [f"not at {name}: {place}" for name in destinations for place in held if (place.SOPInstanceUID, name) not in copied]

    def _take_in(self) -> None:
        modalities = (_STAYING, _PASSING)
        studies = [Study("MR", instances=_INSTANCES, attributes={"Modality": modalities[n % 2]}) for n in range(_STUDIES)]
        uids = self._home.take_in(*studies)
        self._passing |= set(uids[1::2])
        self.instances |= {each.SOPInstanceUID for each in self._home.objects(*uids)}


class _Bench:
    """Kills, and looks at what there is then."""

    def __init__(self, home: TieredHome, cluster: Cluster, s3: DurableS3Server, rng: random.Random, verdict: Verdict) -> None:
        self._work = _Work(home)
        self._places = Places(home)
        self._cluster = cluster
        self._s3 = s3
        self._rng = rng
        self._verdict = verdict
        self._seconds = dict.fromkeys(FLOWS, _FIRST_GUESS)  # that a run took without being killed
        verdict.counts = dict.fromkeys(("kills", "while objects were on their way", "instances"), 0)
        self._table = Table(
            "kill -9", round=">5", flow="<7", killed="<10", after_s=">7", at_work="<7", first_run="<9", round_s=">7", problems=">8"
        )

    def round(self, number: int) -> None:
        """A flow, a kill, recovery, a second run, and a look at everything after each."""
        started, before = time.monotonic(), len(self._verdict.problems)
        flow, parameters = self._work.begin(number)
        victim = self._rng.choice(list(Victim))
        first = self._cluster.run(flow, **parameters)
        after = await_moment(first, self._places.on_their_way, self._rng, usual=self._seconds[flow])
        at_work = self._places.on_their_way()
        self._kill(first, victim)
        outcome = self._outcome(first) if victim in (Victim.WORKER, Victim.S3) else "killed"
        where = f"round {number}, {flow}, {victim} killed"
        self._compare(f"{where}, first run {outcome}")
        self._run_again(where, flow, parameters)
        self._compare(f"{where}, after the second run")
        self._require_done(where, flow)
        self._count(victim, outcome, at_work=at_work)
        found = len(self._verdict.problems) - before
        self._table.row(number, flow, victim, after, "yes" if at_work else "", outcome, time.monotonic() - started, found)

    def _kill(self, run: FlowRun, victim: Victim) -> None:
        """What is not the flow is started again: workers at once, the S3 after a while."""
        if victim in (Victim.FLOW, Victim.ALL):
            run.kill()
        if victim in (Victim.WORKER, Victim.ALL):
            numbers = range(len(self._cluster.workers))
            self._cluster.kill_workers(*(numbers if victim is Victim.ALL else [self._rng.choice(numbers)]))
        if victim in (Victim.S3, Victim.ALL):
            self._s3.kill()
            time.sleep(self._rng.uniform(0, _LONGEST_OUTAGE))  # the outage itself
            self._s3.start()

    def _outcome(self, run: FlowRun) -> str:
        if not run.ends():
            self._verdict.problems.append(f"a run did not end within {ENDS_WITHIN:g} s: {run.told()}")
            return "hangs"
        return "completed" if run.is_completed else "failed"

    def _run_again(self, where: str, flow: str, parameters: Mapping[str, str]) -> None:
        """Return once nobody works any more: what a killed run had handed to a worker goes on without it."""
        started = time.monotonic()
        run = self._cluster.run(flow, **parameters)
        outcome = self._outcome(run)
        self._verdict.require(outcome == "completed", f"{where}: the second run {outcome}: {run.told()}")
        self._seconds[flow] = time.monotonic() - started
        eventually(lambda: not self._places.are_worked_on(), within=ENDS_WITHIN, what="the end of all work")

    def _compare(self, where: str) -> None:
        """Every instance has a good copy, and the index names no place that is wrong."""
        look = self._places.look()
        lost = self._work.instances - look.good
        self._verdict.counts["instances"] = len(self._work.instances)
        self._verdict.count("without a good copy", len(lost))
        self._verdict.count("indexed where they are not", len(look.wrong))
        self._verdict.problems += [f"{where}: no good copy of {uid}" for uid in sorted(lost)]
        self._verdict.problems += [f"{where}: not there: {place}" for place in look.wrong]

    def _require_done(self, where: str, flow: str) -> None:
        """The second run has completed the work, and left nothing behind."""
        undone = self._work.undone(flow, self._places.named())
        if self._places.on_their_way():
            undone.append("something is still on its way")
        self._verdict.count("not completed by the second run", len(undone))
        self._verdict.problems += [f"{where}: {each}" for each in undone]
        self._verdict.problems += [f"{where}: lake and keys differ: {each}" for each in self._places.lake_differences()]
        self._verdict.problems += [f"{where}: nobody knows of {each}" for each in self._places.unknown()]

    def _count(self, victim: Victim, outcome: str, *, at_work: bool) -> None:
        self._verdict.count("kills")
        self._verdict.count("while objects were on their way", int(at_work))
        if victim in (Victim.WORKER, Victim.S3):
            self._verdict.count(f"first runs that {outcome} in spite of it")


if __name__ == "__main__":
    main()
