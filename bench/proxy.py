"""Transfers that break: `python -m bench.proxy [--rounds 1000] [--quick] [--seed N]`.

Each transfer goes through a proxy of its own that closes, resets or stalls the connection at a random byte of the conversation.
Afterwards there is no partial object, no temporary file, and, within 60 s, no association that still holds a slot.
"""

import itertools
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from bench.durability.client import Client, store_message
from bench.durability.faulty_proxy import Break, FaultyProxy, Plan
from bench.durability.instances import Factory, Instance
from bench.durability.oracle import NO_ANSWER, SUCCESS, OracleLog
from bench.durability.site import Site, established, running_site, workplace
from bench.durability.verdict import Table, Verdict, chosen_rounds, options
from tests.support.catalog import Catalogs
from tests.support.waiting import eventually

_CLIENTS = 16
_TIMEOUT = 5  # the archive's, in seconds: that is how long a stall lasts
_CLIENT_TIMEOUT = 2.0
_SLOTS_FREE_WITHIN = 60.0
# Of a conversation beside the instance: the association request and the release; the acceptance, the response and the release.
_TO_ARCHIVE, _FROM_ARCHIVE = 250, 400
_SETTINGS = {"PACS_LOG_LEVEL": "error", "PACS_ASSOCIATION_TIMEOUT": str(_TIMEOUT), "PACS_IDLE_TIMEOUT": str(_TIMEOUT)}


def main() -> None:
    """Break, compare and print."""
    chosen = options(__doc__, rounds=1_000, quick=100).parse_args()
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, rounds=chosen_rounds(chosen), seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, rounds: int, seed: int | None = None) -> Verdict:
    """So many transfers."""
    seed = int(time.time()) if seed is None else seed
    home = folder / "archive"
    verdict = Verdict(f"proxy --seed {seed}")
    with running_site(home, catalogs.new(), settings=_SETTINGS) as site:
        outcomes = _transfer(site, rounds, seed)
        freed = _await_free_slots(site)
        verdict.require(established(site) == 0, f"{established(site)} connections are held after {_SLOTS_FREE_WITHIN:g} s")
        findings = site.settle()
    table = Table("transfers that broke", how="<6", transfers=">9", acknowledged=">12", no_answer=">9", refused=">7")
    for kind in Break:
        of_kind = Counter({status: count for (how, status), count in outcomes.items() if how is kind})
        refused = of_kind.total() - of_kind[SUCCESS] - of_kind[NO_ANSWER]
        table.row(kind, of_kind.total(), of_kind[SUCCESS], of_kind[NO_ANSWER], refused)
        verdict.require(not refused, f"{refused} × refused after {kind}")
    verdict.count("transfers", rounds)
    verdict.counts["slots free after"] = f"{freed:.1f} s"
    findings.enter(verdict)
    if not verdict.problems:
        shutil.rmtree(home)
    return verdict


def _transfer(site: Site, rounds: int, seed: int) -> Counter[tuple[Break, int]]:
    """Everything, by several clients at once; how often each kind of break led to each status."""
    numbers = itertools.count()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        clients = [pool.submit(lambda number: list(_client(site, number, seed, numbers, rounds)), number) for number in range(_CLIENTS)]
        return Counter(outcome for client in clients for outcome in client.result())


def _client(site: Site, number: int, seed: int, numbers: Iterator[int], rounds: int) -> Iterator[tuple[Break, int]]:
    """One client's share of the transfers."""
    rng, factory = random.Random(f"{seed} {number}"), Factory(seed + number)  # noqa: S311  # bytes, not secrets
    with OracleLog(site.oracle, f"client{number}") as log:
        while next(numbers) < rounds:
            instance = factory.make()
            plan = Plan.choose(rng, to_archive=len(store_message(instance)) + _TO_ARCHIVE, from_archive=_FROM_ARCHIVE)
            status = _store(site, plan, instance)
            log.note(instance, status)
            yield plan.kind, status


def _store(site: Site, plan: Plan, instance: Instance) -> int:
    """One transfer; its status, or NO_ANSWER. The client gives up long before the archive does."""
    status = NO_ANSWER
    with FaultyProxy(site.scp, plan) as proxy, suppress(OSError), Client(proxy.scp, timeout=_CLIENT_TIMEOUT) as client:
        status = client.store(instance)
        client.release()
    return status


def _await_free_slots(site: Site) -> float:
    started = time.monotonic()
    with suppress(AssertionError):  # found by who asks next
        eventually(partial(_is_free, site), within=_SLOTS_FREE_WITHIN, what="no connection held")
    return time.monotonic() - started


def _is_free(site: Site) -> bool:
    return established(site) == 0


if __name__ == "__main__":
    main()
