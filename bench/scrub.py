"""Scrub: `python -m bench.scrub [--rounds 20000] [--quick] [--seed N]`; a round is an object.

A hundred of the objects on a disk, S3 (s3rver) and Azure (Azurite) are flipped, truncated, deleted or swapped, instances and further
copies alike. The flow `verify` has to find exactly those in one pass, clients are never given wrong bytes, and `verify` with
`repair` has to mend all that have a second copy. A whole `pacs up` does it, with its Prefect and Dask.
"""

import hashlib
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from bench.command import scratch
from bench.durability.client import Client
from bench.durability.instances import Factory
from bench.durability.verdict import Table, Verdict, chosen_rounds, options
from bench.moving import move_shard
from pacs_core.lifecycle.plan import Step
from pacs_core.model import UID
from pacs_core.ports import ObjectStore
from pacs_core.settings import load_settings
from pacs_core.wiring import intake, tiers
from tests.support.archive import Archive, running_archive
from tests.support.clouds import Azurite, DurableS3Server
from tests.support.dcmtk import Scp, getscu
from tests.support.part10 import by_instance, dataset_bytes

_PER_STUDY = 100
_SENDERS = 4
_DAMAGED = 100
_SIZES = (2_000, 12_000)  # bytes
_PLACES = (("hot", False), ("warm", False), ("warm", True), ("cold", False), ("cold", True))  # a tier; whether a copy stays on hot
_PATIENCE = 1800.0  # seconds for a pass


@dataclass(frozen=True, slots=True)
class _Object:
    """An object that the index names."""

    uid: str
    study: str
    tier: str
    path: str


def main() -> None:
    """Damage, verify, retrieve, repair and print."""
    chosen = options(__doc__, rounds=20_000, quick=1_000).parse_args()
    seed = int(time.time()) if chosen.seed is None else chosen.seed
    verdict = Verdict(f"scrub --seed {seed}")
    with scratch() as root, _archive(root) as archive:
        sent = _send(archive.scp, chosen_rounds(chosen), seed)
        _spread(archive)
        held = _held(archive)
        verdict.count("objects", len(held))
        damaged = _damage(held, random.Random(seed))  # noqa: S311  # choices, not secrets
        _scrub(archive, verdict, sent, damaged, Counter(each.uid for each in held))
    raise SystemExit(verdict.conclude())


@contextmanager
def _archive(root: Path) -> Iterator[Archive]:
    """`pacs up` with three tiers. This process means it too."""
    with ExitStack() as stack:
        s3, azure = DurableS3Server(root / "s3"), Azurite(root / "azure")
        for server in (s3, azure):
            server.start()
            stack.callback(server.stop)
        tiers = {"WARM": (s3.bucket(), s3.endpoint), "COLD": (azure.bucket(), azure.endpoint)}
        settings = {f"PACS_TIERS__{name}__URL": url for name, (url, _) in tiers.items()}
        settings |= {f"PACS_TIERS__{name}__ENDPOINT": endpoint for name, (_, endpoint) in tiers.items()}
        settings |= {**s3.environment, **azure.environment, "PACS_LOG_LEVEL": "warning"}
        archive = stack.enter_context(running_archive(root / "home", settings=settings))
        os.environ.update(archive.env)
        yield archive


def _send(scp: Scp, count: int, seed: int) -> Mapping[str, str]:
    """Store so many instances; the SHA-256 of each data set by its SOP Instance UID."""
    with ThreadPoolExecutor(_SENDERS) as threads:
        studies = threads.map(lambda number: _send_study(scp, Factory(seed * 100_000 + number)), range(count // _PER_STUDY))
        return {uid: digest for study in studies for uid, digest in study.items()}


def _send_study(scp: Scp, factory: Factory) -> Mapping[str, str]:
    sent = {}
    with Client(scp) as client:
        for number in range(_PER_STUDY):
            instance = factory.make(_SIZES[0] + number * (_SIZES[1] - _SIZES[0]) // _PER_STUDY)
            if client.store(instance) != 0:
                raise SystemExit("an instance was not stored")
            sent[instance.SOPInstanceUID] = instance.sha256
        client.release()
    return sent


def _spread(archive: Archive) -> None:
    """Every fifth study stays on hot; the others move to S3 and Azure, half of them with a copy on hot."""
    settings = load_settings()
    if not intake.catch_up(settings, patience=120):
        raise SystemExit("the index does not catch up")
    studies = archive.sql("SELECT StudyInstanceUID AS uid, count(*) AS n, sum(size) AS bytes FROM instance GROUP BY 1 ORDER BY 1")
    moves = []
    for number, study in enumerate(studies):
        tier, keep = _PLACES[number % len(_PLACES)]
        if tier != "hot":
            moves.append((Step(UID(study["uid"]), "hot", tier, study["n"], study["bytes"], "bench"), keep))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        if not all(processes.map(_move, moves, chunksize=4)):
            raise SystemExit("a study was not moved")


def _move(move: tuple[Step, bool]) -> bool:
    """Whether all of a study was moved."""
    step, keep = move
    return move_shard([step], keep=keep) == step.instances


def _held(archive: Archive) -> Sequence[_Object]:
    columns = "SOPInstanceUID AS uid, StudyInstanceUID AS study, tier, path"
    rows = archive.sql(f"SELECT {columns} FROM instance UNION ALL SELECT {columns} FROM instance_copy WHERE state = 'held'")  # noqa: S608
    return [_Object(**row) for row in rows]


def _damage(held: Sequence[_Object], rng: random.Random) -> Mapping[_Object, str]:
    """Damage objects of a hundred instances, each at one place; what was done to which."""
    by_uid = {each.uid: each for each in rng.sample(held, len(held))}  # one place of each
    chosen = rng.sample(sorted(by_uid.values(), key=lambda each: each.uid), _DAMAGED)
    chosen.sort(key=lambda each: each.tier)  # so that neighbours, which are swapped, are mostly on one tier
    stores = tiers.stores(load_settings())
    damaged: dict[_Object, str] = {}
    for first, second in zip(chosen[::2], chosen[1::2], strict=True):
        kind = rng.choice(("flipped", "truncated", "deleted", "swapped"))
        damaged |= {first: kind, second: kind}
        _damage_two(stores, first, second, kind, rng)
    return damaged


def _damage_two(stores: Mapping[str, ObjectStore], first: _Object, second: _Object, kind: str, rng: random.Random) -> None:
    contents = [_read(stores[each.tier], each.path) for each in (first, second)]
    if kind == "swapped":
        contents.reverse()
    for each, content in zip((first, second), contents, strict=True):
        if kind == "deleted":
            stores[each.tier].delete(each.path)
        else:
            _overwrite(stores[each.tier], each.path, _spoilt(content, kind, rng))


def _spoilt(content: bytes, kind: str, rng: random.Random) -> bytes:
    if kind == "flipped":
        at = rng.randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    return content[: rng.randrange(len(content))] if kind == "truncated" else content


def _read(store: ObjectStore, path: str) -> bytes:
    with closing(store.open(path)) as file:
        return file.read()


def _overwrite(store: ObjectStore, path: str, content: bytes) -> None:
    """On a local disk behind the archive's back, with the time of before, as a failing disk would; elsewhere as a new object."""
    if file := store.local_path(path):
        status = file.stat()
        file.chmod(0o600)
        file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        return
    store.delete(path)
    with tempfile.NamedTemporaryFile() as copy:
        copy.write(content)
        copy.flush()
        store.put(path, Path(copy.name), sha256=hashlib.sha256(content).hexdigest())


def _scrub(archive: Archive, verdict: Verdict, sent: Mapping[str, str], damaged: Mapping[_Object, str], places: Mapping[str, int]) -> None:
    table = Table("scrub", step="<24", seconds=">8", found=">6", missed=">7", false_alarms=">13", repaired=">9")
    lost = {each for each in damaged if places[each.uid] == 1}
    print(f"  {dict(Counter(damaged.values()))} on {dict(Counter(each.tier for each in damaged))}; {len(lost)} have no second copy")
    _pass(archive, verdict, table, "verify", set(damaged), repaired=0)
    _retrieve(archive.scp, verdict, sent, {each.study for each in damaged}, lost)
    _pass(archive, verdict, table, "verify with repair", set(damaged), repaired=len(damaged) - len(lost))
    _pass(archive, verdict, table, "verify after repair", lost, repaired=0)


def _pass(archive: Archive, verdict: Verdict, table: Table, step: str, expected: set[_Object], *, repaired: int) -> None:
    """A run of `verify`: what it names is what is expected, no less and no more."""
    repair = json.dumps(step == "verify with repair")
    began = time.perf_counter()
    done = archive.run_pacs("flow", "run", "verify", "--param", f"repair={repair}", timeout=_PATIENCE)
    seconds = time.perf_counter() - began
    named = {(row["tier"], row["path"]) for row in json.loads(archive.artifact("verify-problems")["data"]) if "path" in row}
    missed = {(each.tier, each.path) for each in expected} - named
    false = named - {(each.tier, each.path) for each in expected}
    (summary,) = archive.sql("SELECT summary FROM flow_run WHERE flow = 'verify' ORDER BY started_at DESC LIMIT 1")
    mended = json.loads(summary["summary"])["repaired"]
    table.row(step, seconds, len(named), len(missed), len(false), mended)
    verdict.require(not missed and not false, f"{step}: {len(missed)} were missed, {len(false)} false alarms: {sorted(missed | false)[:3]}")
    verdict.require(mended == repaired, f"{step}: {mended} of {repaired} were repaired")
    verdict.require(done.returncode == (1 if expected else 0), f"{step}: ended with {done.returncode}")
    verdict.count(f"found by {step}", len(named))


def _retrieve(scp: Scp, verdict: Verdict, sent: Mapping[str, str], studies: set[str], lost: set[_Object]) -> None:
    """C-GET of every study that something happened to: each instance comes as it was sent, or not at all where nothing good is left."""
    received = {}
    for study in sorted(studies):
        with tempfile.TemporaryDirectory() as folder:
            getscu(scp, Path(folder) / "got", "study", "STUDY", {"StudyInstanceUID": study})
            for uid, path in by_instance((Path(folder) / "got").iterdir()).items():
                received[uid] = hashlib.sha256(dataset_bytes(path)).hexdigest()
    wrong = [uid for uid, digest in received.items() if digest != sent[uid]]
    verdict.require(not wrong, f"{len(wrong)} instances were sent with wrong bytes")
    absent = len(studies) * _PER_STUDY - len(received)
    verdict.require(absent == len(lost), f"{absent} instances were not sent, of {len(lost)} nothing good is held")
    verdict.count("retrieved", len(received))
    verdict.count("retrieved wrong", len(wrong))


if __name__ == "__main__":
    main()
