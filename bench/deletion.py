"""What is protected stays: `python -m bench.deletion [--rounds 200] [--studies 500] [--quick] [--seed N]`.

Cleanup runs over a home with studies that its rules would remove, were they not protected: a third is on hold, a third has no verified
copy and a rule that asks for one, a third has not been kept for long enough. Each run is killed with kill -9 at a random moment, some
together with the Dask workers. Now and then studies come in that nothing protects, so that there is something to remove, and all are
archived, or moved to an S3 or back. Meanwhile somebody looks, study after study, whether the protected ones can be read whole from where
the index says that they are.
"""

import argparse
import random
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.durability.cluster import ENDS_WITHIN, Cluster, FlowRun, await_moment, running_cluster
from bench.durability.places import Places
from bench.durability.site import workplace
from bench.durability.tiers import home_on, running_s3, tier_on
from bench.durability.verdict import Table, Verdict, chosen_rounds, options
from pacs_core.index.removals import Holds
from pacs_core.model import UID, Hold
from pacs_core.telemetry import logging
from tests.support.catalog import Catalogs
from tests.support.clouds import DurableS3Server
from tests.support.synthetic import Study
from tests.support.tiered import TieredHome
from tests.support.waiting import eventually

_HELD, _ALONE, _YOUNG = "CT", "US", "MR"  # modalities of what is protected by a hold, for want of a copy, by its age
_FREE, _COPIED = "OT", "DX"  # of what is not: no copy is asked for, or there is one
_UNDO_DAYS = 0.0002  # 17 s
_AT_ONCE = 100  # studies that are taken in together
_LOOKED_AT = 50  # studies at once
_BREATH = 0.5  # seconds between two looks, which leave the processor to the flows
_BETWEEN = 20  # killed cleanups between two other runs
_OTHERS: Sequence[tuple[str, Mapping[str, str]]] = (("archive", {}), ("migrate", {"rule": "down"}), ("migrate", {"rule": "up"}))
_SHARE_WORKERS = 0.25  # of the kills


def main() -> None:
    """Kill, look and print."""
    parser = options(__doc__, rounds=200, quick=12)
    parser.add_argument("--studies", type=int, default=500, help="that are protected (default 500)")
    chosen: argparse.Namespace = parser.parse_args()
    logging.configure("error")
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, rounds=chosen_rounds(chosen), studies=chosen.studies, seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, rounds: int, studies: int, seed: int | None = None, **settings: object) -> Verdict:
    """So many killed cleanups of so many protected studies. `settings`: as for bench.faults."""
    seed = int(time.time()) if seed is None else seed
    verdict = Verdict(f"deletion --studies {studies} --seed {seed}")
    with running_s3(folder) as s3, closing(_home(folder, catalogs, s3, settings)) as home, running_cluster(home) as cluster:
        protected = _protected(home, studies)
        with _watched(Places(home), protected, verdict):
            bench = _Bench(home, cluster, random.Random(seed), verdict, protected)  # noqa: S311  # moments, not secrets
            for number in range(rounds):
                bench.round(number)
            bench.conclude()
    if not verdict.problems:
        shutil.rmtree(folder)
    return verdict


def _home(folder: Path, catalogs: Catalogs, s3: DurableS3Server, settings: Mapping[str, object]) -> TieredHome:
    return home_on(
        s3,
        folder,
        catalogs.new(),
        archives={"vault": tier_on(s3)},
        archivals=[{"name": "all-but-some", "modalities": [_HELD, _YOUNG, _COPIED], "destination": "vault"}],
        retentions=[
            {"name": "any", "modalities": [_HELD, _FREE], "require_copy": False, "undo_days": _UNDO_DAYS},
            {"name": "copied", "modalities": [_ALONE, _COPIED], "require_copy": True, "undo_days": _UNDO_DAYS},
            {"name": "old", "modalities": [_YOUNG], "older_than_days": 1, "require_copy": False, "undo_days": _UNDO_DAYS},
        ],
        **settings,
    )


def _protected(home: TieredHome, count: int) -> Mapping[UID, UID]:
    """The instances of so many new studies that must stay, with the study of each."""
    modalities = (_HELD, _ALONE, _YOUNG)
    studies = [_study(modalities[number % len(modalities)]) for number in range(count)]
    uids = [uid for at in range(0, count, _AT_ONCE) for uid in home.take_in(*studies[at : at + _AT_ONCE])]
    holds = Holds(home.database)
    for uid in uids[:: len(modalities)]:
        holds.place(Hold(uid, "evidence", "bench"))
    return {each.SOPInstanceUID: each.StudyInstanceUID for each in home.objects(*uids)}


def _study(modality: str) -> Study:
    return Study("MR", attributes={"Modality": modality})


@dataclass(slots=True)
class _Watch:
    """Whoever looks at the protected studies, all the time."""

    places: Places
    protected: Mapping[UID, UID]
    over: threading.Event = field(default_factory=threading.Event)
    looks: int = 0
    problems: list[str] = field(default_factory=list)

    def look_until_over(self) -> None:
        """Every study at least once, also if it is over at once."""
        studies = sorted(set(self.protected.values()))
        while True:
            for at in range(0, len(studies), _LOOKED_AT):
                self._look(frozenset(studies[at : at + _LOOKED_AT]))
                self.over.wait(_BREATH)
            if self.over.is_set():
                return

    def _look(self, studies: frozenset[UID]) -> None:
        look = self.places.look(studies)
        self.looks += len(studies)
        wanted = {instance for instance, study in self.protected.items() if study in studies}
        self.problems += [f"no good copy of {instance} of study {self.protected[instance]}" for instance in sorted(wanted - look.good)]
        self.problems += [f"not there: {place}" for place in look.wrong]


@contextmanager
def _watched(places: Places, protected: Mapping[UID, UID], verdict: Verdict) -> Iterator[None]:
    """Somebody looks for the length of a `with` block; what was found is in the verdict then."""
    watch = _Watch(places, protected)
    with ThreadPoolExecutor(1, thread_name_prefix="watch") as threads:
        looking = threads.submit(watch.look_until_over)
        try:
            yield
        finally:
            watch.over.set()
            looking.result()
            verdict.counts |= {"looks at a protected study": watch.looks, "in vain": len(watch.problems)}
            verdict.problems += watch.problems


class _Bench:
    """Kills cleanups."""

    def __init__(self, home: TieredHome, cluster: Cluster, rng: random.Random, verdict: Verdict, protected: Mapping[UID, UID]) -> None:
        self._home = home
        self._places = Places(home)
        self._cluster = cluster
        self._rng = rng
        self._verdict = verdict
        self._protected = protected
        self._free: set[UID] = set()  # studies that nothing protects
        self._seconds = 0.0  # that the last run took which was not killed
        verdict.counts = dict.fromkeys(("killed cleanups", "while they were at work", "other runs"), 0)
        self._table = Table("kill -9 of cleanup", run=">5", after_s=">7", at_work="<7", workers="<7", removed=">7", gone=">5", run_s=">6")

    def round(self, number: int) -> None:
        """A cleanup that is killed; sometimes other runs before it, which tell how long one takes."""
        started = time.monotonic()
        if number % _BETWEEN == 0:
            self._take_in()
            self._run_other(*_OTHERS[number // _BETWEEN % len(_OTHERS)])
        self._await_idle()
        run = self._cluster.run("cleanup")
        after = await_moment(run, self._places.are_worked_on, self._rng, usual=self._seconds)
        at_work = self._places.are_worked_on()
        workers = self._kill(run)
        gone = self._require_all(f"run {number}")
        self._verdict.count("killed cleanups")
        self._verdict.count("while they were at work", int(at_work))
        told = ("yes" if at_work else "", "yes" if workers else "", f"{len(self._removed())}/{len(self._free)}")
        self._table.row(number, after, *told, gone, time.monotonic() - started)

    def conclude(self) -> None:
        """A cleanup that is left alone removes the rest of what nothing protects, and nothing else."""
        self._run_other("archive", {})
        self._whole_run("cleanup", {})
        self._require_all("the last run")
        removed = self._removed()
        self._verdict.counts["unprotected studies removed"] = len(removed)
        self._verdict.problems += [f"{study} is not removed" for study in sorted(self._free - removed)]

    def _removed(self) -> set[UID]:
        return self._free - {each.StudyInstanceUID for each in self._home.objects(*self._free)}

    def _await_idle(self) -> None:
        """What a killed run had handed to a worker goes on without it."""
        eventually(lambda: not self._places.are_worked_on(), within=ENDS_WITHIN, what="the end of all work")

    def _kill(self, run: FlowRun) -> bool:
        """Whether the workers were killed too."""
        run.kill()
        workers = self._rng.random() < _SHARE_WORKERS
        if workers:
            self._cluster.kill_workers(*range(len(self._cluster.workers)))
        return workers

    def _take_in(self) -> None:
        self._free |= set(self._home.take_in(*(_study(modality) for modality in (_FREE, _COPIED) for _ in range(_BETWEEN))))

    def _run_other(self, flow: str, parameters: Mapping[str, str]) -> None:
        outcome, told = self._whole_run(flow, parameters)
        self._verdict.count("other runs")
        self._verdict.require(outcome, f"{flow} {parameters} did not complete: {told}")

    def _whole_run(self, flow: str, parameters: Mapping[str, str]) -> tuple[bool, str]:
        """Whether it completed, and what it said."""
        started = time.monotonic()
        self._await_idle()
        run = self._cluster.run(flow, **parameters)
        self._verdict.require(run.ends(), f"{flow} {parameters} hangs")
        self._seconds = time.monotonic() - started
        return run.is_completed, run.told()

    def _require_all(self, where: str) -> int:
        """Every protected instance is in the index; how many are not."""
        gone = set(self._protected) - {each.SOPInstanceUID for each in self._home.objects(*set(self._protected.values()))}
        self._verdict.problems += [f"{where}: the protected {instance} is out of the index" for instance in sorted(gone)]
        return len(gone)


if __name__ == "__main__":
    main()
