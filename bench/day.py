"""A simulated day: `python -m bench.day [--rounds 100] [--seconds 60] [--quick] [--seed N]`; a round is an exam.

Forty modalities query the worklist, tell of their steps, send their studies and ask for commitment, viewers query and retrieve what has
come, all at once, within so many seconds. No operation may fail, and at the end the worklist, the performed steps, the commitments, their
deliveries and the index must say what happened. The clients (pynetdicom, DCMTK's storescu) share the machine's cores with the archive, and
their own work is in the figures.
"""

import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt

from bench.durability.site import Site, running_site, workplace
from bench.durability.verdict import Table, Verdict, chosen_rounds, options, percentile
from bench.exams import PUSH, Diary, Exam, perform, view, worklist_item
from pacs_core.index.operational import Peers
from pacs_core.index.postgres import Database
from pacs_core.index.worklist import Worklist
from pacs_core.model import AETitle, Peer
from pacs_core.wiring.orders import worklist_entry
from tests.support.archive import query_rows
from tests.support.catalog import Catalogs
from tests.support.dcmtk import Scp
from tests.support.processes import free_ports
from tests.support.synthetic import Study
from tests.support.waiting import eventually

_STATIONS, _LISTENERS, _PROCESSES, _VIEWERS = 40, 2, 4, 2  # viewers of each process
_INSTANCES = {"CT": 20, "MR": 40}
_DISCONTINUED_SHARE = 0.1
_ANSWERED = "commitment answered"


def main() -> None:
    """Live through it, compare and print."""
    parser = options(__doc__, rounds=100, quick=10)
    parser.add_argument("--seconds", type=float, default=60, help="over which the exams begin (default 60; with --quick 6)")
    chosen = parser.parse_args()
    seconds = 6.0 if chosen.quick else chosen.seconds
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, rounds=chosen_rounds(chosen), seconds=seconds, seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, rounds: int, seconds: float, seed: int | None = None) -> Verdict:
    """One day with so many exams."""
    seed = int(time.time()) if seed is None else seed
    rng = random.Random(seed)  # noqa: S311  # choices, not secrets
    verdict = Verdict(f"day --seed {seed}")
    exams = [_exam(rng, number, folder / "sent") for number in range(rounds)]
    catalog_url = catalogs.prepared()
    with _modalities() as (port, answers), running_site(folder / "archive", catalog_url, listeners=_LISTENERS) as site:
        _enter(catalog_url, exams, port)
        diaries = _live(site.scp, exams, seconds, rng)
        for diary in diaries:
            verdict.problems += diary.problems
        if not verdict.problems:
            eventually(lambda: len(answers) == rounds, within=60, what="an answer to each request for commitment")
            eventually(lambda: _is_all_recorded(site), within=60, what="the record of every delivery")
        _compare(verdict, site, exams)
    _print(diaries, answers)
    verdict.count("exams", rounds)
    verdict.count("instances", sum(len(exam.files) for exam in exams))
    verdict.count("operations", sum(len(diary.milliseconds) for diary in diaries))
    if not verdict.problems:
        shutil.rmtree(folder)
    return verdict


def _exam(rng: random.Random, number: int, folder: Path) -> Exam:
    modality = "CT" if number % 4 == 0 else "MR"
    study = Study(modality, instances=_INSTANCES[modality])
    paths = study.write(folder / str(number))
    first = dcmread(paths[0], stop_before_pixels=True)
    return Exam(
        number=number,
        station=f"STATION{number % _STATIONS}",
        modality=modality,
        patient_id=study.patient_id,
        study=study.uid,
        series=first.SeriesInstanceUID,
        sop_class=first.SOPClassUID,
        files={path.stem: path for path in paths},
        outcome="DISCONTINUED" if rng.random() < _DISCONTINUED_SHARE else "COMPLETED",
        transaction=f"2.25.{rng.getrandbits(100)}",
    )


def _enter(catalog_url: str, exams: Sequence[Exam], port: int) -> None:
    with closing(Database(catalog_url)) as database:
        Worklist(database).put([worklist_entry(worklist_item(exam), "json") for exam in exams])
        for station in {exam.station for exam in exams}:
            Peers(database).put(Peer(AETitle(station), "127.0.0.1", port))


@contextmanager
def _modalities() -> Iterator[tuple[int, Mapping[str, float]]]:
    """Where all of them take answers to their requests for commitment: the port, and when which request was answered."""
    answers: dict[str, float] = {}

    def take(event: evt.Event) -> tuple[int, None]:
        if event.event_type == 1:
            answers.setdefault(str(event.event_information.TransactionUID), time.time())
        return 0x0000, None

    (port,) = free_ports(1)
    ae = AE()
    ae.maximum_associations = 100
    ae.add_supported_context(PUSH, ExplicitVRLittleEndian, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, take)])
    assert server is not None
    try:
        yield port, answers
    finally:
        server.shutdown()


def _live(scp: Scp, exams: Sequence[Exam], seconds: float, rng: random.Random) -> Sequence[Diary]:
    """Every station does its exams one after the other, each not before its time; the stations are dealt to a few processes."""
    starts = {exam.number: rng.uniform(0, seconds) for exam in exams}
    by_process: dict[int, list[tuple[float, Exam]]] = defaultdict(list)
    for exam in exams:
        by_process[exam.number % _STATIONS % _PROCESSES].append((starts[exam.number], exam))
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool:
        begin = time.time() + 3  # when all have been loaded
        return list(pool.map(_live_through, [scp] * len(by_process), by_process.values(), [begin] * len(by_process)))


def _live_through(scp: Scp, timed: Sequence[tuple[float, Exam]], begin: float) -> Diary:
    diary, by_station = Diary(), defaultdict(list)
    for start, exam in sorted(timed, key=lambda each: each[0]):
        by_station[exam.station].append((begin + start, exam))
    with ThreadPoolExecutor(_VIEWERS) as viewers, ThreadPoolExecutor(len(by_station)) as stations:

        def work(own: Sequence[tuple[float, Exam]]) -> None:
            for at, exam in own:
                time.sleep(max(at - time.time(), 0))
                if _is_done(perform, scp, exam, diary):
                    viewers.submit(_is_done, view, scp, exam, diary)

        list(stations.map(work, by_station.values()))
    return diary


def _is_done(part: Callable[[Scp, Exam, Diary], None], scp: Scp, exam: Exam, diary: Diary) -> bool:
    """A thread's boundary: whatever fails is a problem of the day."""
    try:
        part(scp, exam, diary)
    except Exception as exc:  # noqa: BLE001  # the day goes on, and its verdict tells
        diary.problems.append(f"exam {exam.number}: {type(exc).__name__}: {exc}")
        return False
    return True


def _is_all_recorded(site: Site) -> bool:
    return not query_rows(site.environment, "SELECT 1 AS due FROM event_report WHERE state <> 'delivered'")


def _compare(verdict: Verdict, site: Site, exams: Sequence[Exam]) -> None:
    """What SQL tells of the day against what happened."""

    def told(what: str, query: str, expected: Mapping[str, object]) -> None:
        found = {str(row["key"]): row["value"] for row in query_rows(site.environment, query)}
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        for key in wrong:
            verdict.problems.append(f"{what}: {key} is {found.get(key)!r} and not {expected.get(key)!r}")

    told("worklist", "SELECT StudyInstanceUID AS key, state AS value FROM worklist_item", {exam.study: exam.outcome for exam in exams})
    told(
        "performed steps",
        "SELECT StudyInstanceUID AS key, state AS value FROM performed_step JOIN performed_step_request USING (SOPInstanceUID)",
        {exam.study: exam.outcome for exam in exams},
    )
    told(
        "commitments",
        "SELECT TransactionUID AS key, concat(state, ' ', instances, ' ', failed) AS value FROM commitment",
        {exam.transaction: f"answered {len(exam.files)} 0" for exam in exams},
    )
    told(
        "instances",
        "SELECT StudyInstanceUID AS key, count(DISTINCT SOPInstanceUID) AS value FROM instance GROUP BY ALL",
        {exam.study: len(exam.files) for exam in exams},
    )
    verdict.count("worklist queries on record", query_rows(site.environment, "SELECT count(*) AS n FROM worklist_query")[0]["n"])
    verdict.count("associations on record", query_rows(site.environment, "SELECT count(*) AS n FROM association")[0]["n"])


def _print(diaries: Sequence[Diary], answers: Mapping[str, float]) -> None:
    latencies: dict[str, list[float]] = defaultdict(list)
    for diary in diaries:
        for operation, milliseconds in diary.milliseconds:
            latencies[operation].append(milliseconds)
        latencies[_ANSWERED] += [(answers[uid] - at) * 1000 for uid, at in diary.asked.items() if uid in answers]
    table = Table("a day, as its clients saw it", operation="<32", count=">6", p50_ms=">8", p95_ms=">8", p99_ms=">8", longest_ms=">10")
    for operation, values in sorted(latencies.items()):
        ordered = sorted(values)
        if ordered:
            table.row(operation, len(ordered), *(percentile(ordered, percent) for percent in (50, 95, 99)), ordered[-1])


if __name__ == "__main__":
    main()
