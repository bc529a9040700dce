"""Storage commitment proven: `python -m bench.commitment [--rounds 1000] [--away 600] [--quick] [--seed N]`; a round is a request.

A modality (pynetdicom) asks for commitment to instances of which some are missing or damaged in one request of twenty, while listeners
are killed. It is away then for a while, and there again; the listeners go on being killed. Each request must be answered, exactly, and none
with a commitment to what is not held whole. What is asked without success being answered is asked again with the same TransactionUID.
"""

import random
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import UID, MRImageStorage
from pynetdicom import AE, evt

from bench.durability.client import Client
from bench.durability.instances import Factory
from bench.durability.site import Site, kill, running_site, workplace
from bench.durability.verdict import Table, Verdict, chosen_rounds, distribution, options
from pacs_core.index.operational import Peers
from pacs_core.index.postgres import Database
from pacs_core.model import AETitle, Peer
from pacs_core.storage.uncommitted import JournalReader
from tests.support.archive import query_rows
from tests.support.catalog import Catalogs
from tests.support.processes import free_ports
from tests.support.waiting import eventually

_PUSH, _INSTANCE = UID("1.2.840.10008.1.20.1"), UID("1.2.840.10008.1.20.1.1")
_LISTENERS, _SENDERS = 2, 3
_HELD, _DAMAGED, _GONE = 300, 10, 10
_NAMED = 5  # instances of a request, at most
_BAD_SHARE = 0.05
_KILL_EVERY = 5.0  # seconds, at most
_DELIVERED_WITHIN = 600.0
_SETTINGS = {"PACS_LOG_LEVEL": "warning", "PACS_REPORT_RETRY_FIRST": "1", "PACS_REPORT_RETRY_LONGEST": "20"}
_MISSING, _NOT_WHOLE = 0x0112, 0x0110


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and what must come of it."""

    transaction: str
    instances: tuple[str, ...]
    failures: Mapping[str, int]


class _Modality:
    """Takes answers when it is there. The first one of each request is kept with its time, others are compared with it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: dict[str, list[tuple[float, set[str], dict[str, int]]]] = defaultdict(list)
        self._lock = threading.Lock()

    @contextmanager
    def listening(self) -> Iterator[None]:
        ae = AE("MODALITY")
        ae.maximum_associations = 20
        ae.add_supported_context(_PUSH, scu_role=False, scp_role=True)
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._take)])
        assert server is not None
        try:
            yield
        finally:
            server.shutdown()

    def _take(self, event: evt.Event) -> tuple[int, None]:
        ds: Dataset = event.event_information
        committed = {str(item.ReferencedSOPInstanceUID) for item in ds.get("ReferencedSOPSequence") or ()}
        failed = {str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in ds.get("FailedSOPSequence") or ()}
        with self._lock:
            self.answers[str(ds.TransactionUID)].append((time.monotonic(), committed, failed))
        return 0x0000, None


def main() -> None:
    """Ask, kill, compare and print."""
    parser = options(__doc__, rounds=1000, quick=40)
    parser.add_argument("--away", type=float, default=600, help="seconds for which the modality is away (default 600; with --quick 5)")
    chosen = parser.parse_args()
    away = 5.0 if chosen.quick else chosen.away
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, rounds=chosen_rounds(chosen), away=away, seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, rounds: int, away: float, seed: int | None = None) -> Verdict:
    """So many requests to one archive."""
    seed = int(time.time()) if seed is None else seed
    rng = random.Random(seed)  # noqa: S311  # choices, not secrets
    home, catalog_url = folder / "archive", catalogs.prepared()
    verdict = Verdict(f"commitment --seed {seed}")
    modality = _Modality(free_ports(1)[0])
    with running_site(home, catalog_url, listeners=_LISTENERS, settings=_SETTINGS) as site:
        with closing(Database(catalog_url)) as database:
            Peers(database).put(Peer(AETitle("MODALITY"), "127.0.0.1", modality.port))
        good, bad = _store(site, rng)
        requests = [_request(rng, good, bad) for _ in range(rounds)]
        left_at = time.monotonic()
        with _killing(site, rng) as kills:
            with ThreadPoolExecutor(_SENDERS) as senders:
                list(senders.map(lambda asked: _ask(site, asked), requests))
            asked_for = time.monotonic() - left_at
            time.sleep(max(left_at + away - time.monotonic(), 0))
            back_at = time.monotonic()
            with modality.listening():
                eventually(lambda: len(modality.answers) == rounds, within=_DELIVERED_WITHIN, what="an answer to each request")
                eventually(lambda: _is_all_delivered(site), within=_DELIVERED_WITHIN, what="the record of every delivery")
        delivered = [answers[0][0] - back_at for answers in modality.answers.values()]
        verdict.count("requests", rounds)
        verdict.count("kills", len(kills))
        _compare(verdict, requests, modality)
        _look_at_the_record(verdict, site, rounds)
    table = Table("commitment", requests=">8", asked_in=">9", away=">6", answered_after="<24")
    table.row(rounds, asked_for, away, distribution(delivered))
    if not verdict.problems:
        shutil.rmtree(home)
    return verdict


def _store(site: Site, rng: random.Random) -> tuple[Sequence[str], Mapping[str, int]]:
    """Instances that are held whole, and those that are not, with the reason that there is."""
    factory = Factory(rng.getrandbits(48))
    with Client(site.scp) as client:
        uids = [instance.SOPInstanceUID for instance in (factory.make(20_000) for _ in range(_HELD)) if client.store(instance) == 0]
        client.release()
    assert len(uids) == _HELD
    # Until then the journal has them too, and what is damaged would be written anew from it.
    eventually(lambda: _is_settled(site), within=60, what="every object synced")
    paths = {path.stem: path for path in site.hot.rglob("*.dcm")}
    for uid in uids[:_DAMAGED]:
        paths[uid].chmod(0o640)
        content = bytearray(paths[uid].read_bytes())
        content[-1 - rng.randrange(1000)] ^= 0xFF
        paths[uid].write_bytes(content)
    for uid in uids[_DAMAGED : _DAMAGED + _GONE]:
        paths[uid].unlink()
    reasons = dict.fromkeys(uids[: _DAMAGED + _GONE], _NOT_WHOLE)
    return uids[_DAMAGED + _GONE :], reasons | {f"2.25.{number}": _MISSING for number in range(1, _DAMAGED)}


def _is_settled(site: Site) -> bool:
    rows = query_rows(site.environment, "SELECT count(*) AS n FROM instance")
    return bool(rows[0]["n"] == _HELD) and not JournalReader(site.journal).unsecured(1)[0]


def _request(rng: random.Random, good: Sequence[str], bad: Mapping[str, int]) -> _Asked:
    named = rng.sample(good, rng.randint(1, _NAMED))
    if rng.random() < _BAD_SHARE:
        named += rng.sample(sorted(bad), rng.randint(1, 2))
        rng.shuffle(named)
    return _Asked(f"2.25.{rng.getrandbits(100)}", tuple(named), {uid: bad[uid] for uid in named if uid in bad})


def _ask(site: Site, asked: _Asked) -> None:
    """Until success is answered, on as many associations as it takes."""
    ds = Dataset()
    ds.TransactionUID = asked.transaction
    ds.ReferencedSOPSequence = [_item(uid) for uid in asked.instances]
    eventually(lambda: _is_taken(site, ds), within=120, what="success for a request")


def _item(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MRImageStorage, uid
    return item


def _is_taken(site: Site, ds: Dataset) -> bool:
    ae = AE("MODALITY")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    ae.add_requested_context(_PUSH)
    assoc = ae.associate(site.scp.host, site.scp.port, ae_title=site.scp.ae_title)
    if not assoc.is_established:
        return False
    status, _ = assoc.send_n_action(ds, 1, _PUSH, _INSTANCE)
    assoc.release()
    return "Status" in status and status.Status == 0x0000


@contextmanager
def _killing(site: Site, rng: random.Random) -> Iterator[list[int]]:
    """A listener is killed every now and then, and started again at once; the pids of those that were."""
    ended = threading.Event()
    kills: list[int] = []

    def work() -> None:
        while not ended.wait(rng.uniform(1, _KILL_EVERY)):
            number = rng.randrange(_LISTENERS)
            victim = site.listener(number)
            kill(victim)
            kills.append(victim.pid)
            site.launch(number)
            site.await_ready()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield kills
    finally:
        ended.set()
        thread.join()


def _compare(verdict: Verdict, requests: Sequence[_Asked], modality: _Modality) -> None:
    """Every answer to every request, the repeated ones too."""
    exact = repeated = 0
    for asked in requests:
        answers = modality.answers.get(asked.transaction, [])
        repeated += max(len(answers) - 1, 0)
        wanted = set(asked.instances) - asked.failures.keys()
        false = {uid for _, committed, _ in answers for uid in committed} - wanted
        verdict.require(bool(answers), f"{asked.transaction} was never answered")
        verdict.require(not false, f"{asked.transaction}: committed to {', '.join(sorted(false))}, which is not held whole")
        if all((committed, failed) == (wanted, asked.failures) for _, committed, failed in answers):
            exact += 1
        else:
            verdict.problems.append(f"{asked.transaction}: {answers} instead of {sorted(wanted)} and {asked.failures}")
    verdict.count("exact answers", exact)
    verdict.count("delivered more than once", repeated)
    verdict.count("with failures", sum(bool(asked.failures) for asked in requests))


def _is_all_delivered(site: Site) -> bool:
    return not query_rows(site.environment, "SELECT 1 FROM event_report WHERE state <> 'delivered' LIMIT 1")


def _look_at_the_record(verdict: Verdict, site: Site, rounds: int) -> None:
    query = "SELECT count(*) AS n FROM commitment JOIN event_report r ON r.number = report WHERE commitment.state = 'answered'"
    (row,) = query_rows(site.environment, query)
    verdict.require(row["n"] == rounds, f"{row['n']} requests are on record as answered")


if __name__ == "__main__":
    main()
