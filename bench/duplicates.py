"""Duplicates: `python -m bench.duplicates [--rounds 10000] [--quick] [--seed N]`.

So many instances are sent three times each, by four clients at once, then a hundredth of them again with other bytes. Each
has one object and one row, the originals are kept, and what came with other bytes is in quarantine and in the log.
"""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.durability.checker import data_set_digest, quarantined
from bench.durability.client import Client
from bench.durability.instances import Factory, Instance
from bench.durability.oracle import NO_ANSWER, SUCCESS, OracleLog
from bench.durability.site import Site, running_site, workplace
from bench.durability.verdict import Table, Verdict, chosen_rounds, options
from tests.support.catalog import Catalogs

_LISTENERS, _CLIENTS = 2, 4
_TIMES = 3
_VARIANTS_SHARE = 100  # one in so many
_SIZE = 10_000
_SETTINGS = {"PACS_LOG_LEVEL": "warning"}
_EVENT = "duplicate_kept_first"


def main() -> None:
    """Send, compare and print."""
    chosen = options(__doc__, rounds=10_000, quick=500).parse_args()
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, rounds=chosen_rounds(chosen), seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(folder: Path, catalogs: Catalogs, *, rounds: int, seed: int | None = None) -> Verdict:
    """So many instances."""
    seed = int(time.time()) if seed is None else seed
    home = folder / "archive"
    verdict = Verdict(f"duplicates --seed {seed}")
    factory = Factory(seed)
    table = Table(f"{_CLIENTS} clients at once", what="<24", sent=">7", acknowledged=">12", refused=">7", no_answer=">9")
    variants: list[Instance] = []
    with running_site(home, catalogs.new(), listeners=_LISTENERS, settings=_SETTINGS) as site:
        originals = _originals(factory, rounds, variants)
        copies = (instance for instance in originals for _ in range(_TIMES))
        table.row(f"{rounds:,} instances, {_TIMES} times", *_send(site, "originals", copies, verdict))
        table.row(f"{len(variants):,} with other bytes", *_send(site, "variants", variants, verdict))
        findings = site.settle()
        verdict.require(findings.objects == rounds, f"{findings.objects} objects of {rounds} instances")
        verdict.require(findings.rows == rounds, f"{findings.rows} rows of {rounds} instances")
        _check_variants(site, variants, verdict)
    findings.enter(verdict)
    if not verdict.problems:
        shutil.rmtree(home)
    return verdict


def _originals(factory: Factory, count: int, variants: list[Instance]) -> Iterator[Instance]:
    """The instances, and, as they are made, for some of them another data set of the same names."""
    for number in range(count):
        instance = factory.make(_SIZE)
        if number % _VARIANTS_SHARE == 0:
            variants.append(factory.variant(instance.SOPInstanceUID, _SIZE + 2))
        yield instance


def _send(site: Site, name: str, instances: Iterator[Instance] | Sequence[Instance], verdict: Verdict) -> tuple[int, int, int, int]:
    """Have all clients send what there is, each the next one: sent, acknowledged, refused, unanswered."""
    shared, lock = iter(instances), threading.Lock()

    def turn() -> Instance | None:
        with lock:
            return next(shared, None)

    def client(number: int) -> Counter[int]:
        with OracleLog(site.oracle, f"{name}-{number}") as log, Client(site.scp) as association:
            statuses: Counter[int] = Counter()
            while (instance := turn()) is not None:
                status = association.store(instance)
                log.note(instance, status)
                statuses[status] += 1
            association.release()
            return statuses

    with ThreadPoolExecutor(_CLIENTS) as pool:
        statuses = sum(pool.map(client, range(_CLIENTS)), Counter[int]())
    sent, acknowledged, unanswered = statuses.total(), statuses[SUCCESS], statuses[NO_ANSWER]
    verdict.count(f"{name} sent", sent)
    verdict.require(sent == acknowledged, f"{name}: {dict(statuses)} of {sent}")
    return sent, acknowledged, sent - acknowledged - unanswered, unanswered


def _check_variants(site: Site, variants: Sequence[Instance], verdict: Verdict) -> None:
    expected = Counter(variant.sha256 for variant in variants)
    found = Counter(data_set_digest(path) for path in quarantined(site.hot))
    verdict.count("quarantined", found.total())
    verdict.require(
        found == expected, f"{(expected - found).total()} variants are not in quarantine, {(found - expected).total()} others are"
    )
    logged = [line for line in site.log.read_text(errors="replace").splitlines() if _EVENT in line]
    missing = [variant.SOPInstanceUID for variant in variants if not any(variant.SOPInstanceUID in line for line in logged)]
    verdict.require(not missing, f"{len(missing)} variants are not in the log as {_EVENT}")


if __name__ == "__main__":
    main()
