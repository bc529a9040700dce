"""Hostile connections: `python -m bench.hostile [--rounds 1] [--quick] [--seed N]`.

200 connections that are silent and 50 that send one byte every now and then, beside a good client. Its C-ECHOs, each on a new
association, are answered within a second (99 %), the others are closed within 30 s, and the archive needs at most 100 MB more. Then
come requests that no client makes: a first PDU that declares 4 GiB, an association request of 7.7 MB, a data set in PDVs of one byte.
"""

import shutil
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.durability.client import VERIFICATION, Client, store_message
from bench.durability.instances import Factory
from bench.durability.oracle import SUCCESS, OracleLog
from bench.durability.pests import Pest, endure
from bench.durability.site import Site, running_site, workplace
from bench.durability.verdict import Table, Verdict, chosen_rounds, distribution, options, percentile
from tests.support.catalog import Catalogs

_ECHO_WITHIN, _CLOSED_WITHIN, _MORE_MEMORY = 1.0, 30.0, 100.0  # seconds, seconds, MB
_PATIENCE = 90.0
_WARM_UP = 20  # C-ECHOs
_BETWEEN_ECHOS = 0.02  # seconds; each leaves a connection in TIME_WAIT, and ports are few
_TIMEOUT = 25  # the archive's, in seconds: the 30 are from the connection to its end, as the other side sees it
_BIG_REQUEST = 7_700_000
_DECLARED = 0xFFFFFFFF
_BYTEWISE = 20_000
_ZEROS = bytes(1 << 20)


@dataclass(slots=True)
class _GoodClient:
    """Asks for C-ECHO again and again, each time on a new association, in a thread."""

    site: Site
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def ask(self) -> None:
        """Once."""
        started = time.monotonic()
        try:
            with Client(self.site.scp, VERIFICATION) as client:
                status = client.echo()
                client.release()
        except OSError as exc:
            self.failures.append(f"C-ECHO was not answered: {exc}")
            return
        self.seconds.append(time.monotonic() - started)
        if status != SUCCESS:
            self.failures.append(f"C-ECHO was answered with {status:04X}")

    @contextmanager
    def asking(self) -> Iterator[None]:
        """All the time, for the length of a `with` block, and at least once."""
        ended = threading.Event()

        def run() -> None:
            self.ask()
            while not ended.wait(_BETWEEN_ECHOS):
                self.ask()

        thread = threading.Thread(target=run, name="good-client")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def main() -> None:
    """Be hostile, and print."""
    chosen = options(__doc__, rounds=1, quick=1).parse_args()
    silent, slow = (20, 10) if chosen.quick else (200, 50)
    with workplace() as (folder, catalogs):
        verdict = run(folder, catalogs, silent=silent, slow=slow, rounds=chosen_rounds(chosen), seed=chosen.seed)
    raise SystemExit(verdict.conclude())


def run(
    folder: Path, catalogs: Catalogs, *, silent: int, slow: int, rounds: int = 1, timeout: int = _TIMEOUT, seed: int | None = None
) -> Verdict:
    """So many hostile connections at once, to an archive whose time limits are `timeout` seconds."""
    seed = int(time.time()) if seed is None else seed
    verdict, factory = Verdict(f"hostile --seed {seed}"), Factory(seed)
    settings = {"PACS_LOG_LEVEL": "error", "PACS_ASSOCIATION_TIMEOUT": str(timeout), "PACS_IDLE_TIMEOUT": str(timeout)}
    title = "beside a good client (median/p99/longest)"
    table = Table(title, what="<34", closed_or_done_after="<21", its_C_ECHO="<21", MB_more=">7")
    for number in range(rounds):
        home = folder / f"round{number}"
        with running_site(home, catalogs.new(), settings=settings) as site:
            _crowd(site, factory, silent, slow, verdict, table)
            _odd_requests(site, factory, verdict, table)
            findings = site.settle()
        findings.enter(verdict)
        if not verdict.problems:
            shutil.rmtree(home)
    return verdict


def _crowd(site: Site, factory: Factory, silent: int, slow: int, verdict: Verdict, table: Table) -> None:
    good, memory = _GoodClient(site), _Memory(site)
    with good.asking():
        pests = [Pest.silent(site.scp, number) for number in range(silent)]
        pests += [Pest.requesting(site.scp, silent + number) for number in range(slow // 2)]
        pests += [Pest.storing(site.scp, silent + number, factory.make(_BYTEWISE)) for number in range(slow // 2, slow)]
        lifetimes = endure(pests, patience=_PATIENCE, meanwhile=memory.look)
    verdict.count("connections", len(pests))
    verdict.require(len(lifetimes) == len(pests), f"{len(pests) - len(lifetimes)} connections were not closed within {_PATIENCE:g} s")
    verdict.within(max(lifetimes, default=0.0), _CLOSED_WITHIN, "the last hostile connection was closed")
    _enter(good, memory, verdict)
    table.row(f"{silent} silent, {slow} slow connections", distribution(lifetimes), distribution(good.seconds), memory.grown)


def _odd_requests(site: Site, factory: Factory, verdict: Verdict, table: Table) -> None:
    for name, deed in (
        ("a first PDU of 4 GiB", partial(_send_until_closed, site, struct.pack(">BxL", 1, _DECLARED), verdict)),
        ("an A-ASSOCIATE-RQ of 7.7 MB", partial(_send_until_closed, site, _big_request(), verdict)),
        ("a data set in PDVs of 1 byte", partial(_store_bytewise, site, factory, verdict)),
    ):
        good, memory = _GoodClient(site), _Memory(site)
        started = time.monotonic()
        with good.asking():
            deed()
            seconds = time.monotonic() - started
            memory.look()
        _enter(good, memory, verdict)
        table.row(name, distribution([seconds]), distribution(good.seconds), memory.grown)


def _enter(good: _GoodClient, memory: "_Memory", verdict: Verdict) -> None:
    verdict.problems += good.failures
    verdict.count("C-ECHOs", len(good.seconds))
    if good.seconds:
        verdict.within(percentile(sorted(good.seconds), 99), _ECHO_WITHIN, "the good client's C-ECHO (p99)")
    verdict.require(memory.grown <= _MORE_MEMORY, f"{memory.grown:.0f} MB more memory")


def _send_until_closed(site: Site, data: bytes, verdict: Verdict) -> None:
    """Send, and go on sending zeros for as long as the other side listens; it is to hang up."""
    deadline = time.monotonic() + _PATIENCE
    with Pest.silent(site.scp, 0).sock as sock, suppress(OSError):
        sock.sendall(data)
        while time.monotonic() < deadline:
            sock.sendall(_ZEROS)
        verdict.problems.append(f"what began with {data[:6].hex()} was read for {_PATIENCE:g} s")


def _big_request() -> bytes:
    """An A-ASSOCIATE-RQ of presentation contexts, well-formed and absurd."""
    uid = b"1.2.840.10008.1.1"
    syntaxes = b"".join(struct.pack(">BxH", 0x40, len(uid)) + uid for _ in range(2_900))
    item = struct.pack(">Bxxx", 1) + struct.pack(">BxH", 0x30, len(uid)) + uid + syntaxes
    context = struct.pack(">BxH", 0x20, len(item)) + item
    items = struct.pack(">BxH", 0x10, 21) + b"1.2.840.10008.3.1.1.1" + context * (_BIG_REQUEST // len(context))
    body = struct.pack(">Hxx", 1) + b"PACS".ljust(16) + b"HOSTILE".ljust(16) + bytes(32) + items
    return struct.pack(">BxL", 1, len(body)) + body


def _store_bytewise(site: Site, factory: Factory, verdict: Verdict) -> None:
    """Odd, and allowed: every byte of the data set in a P-DATA-TF of its own."""
    instance = factory.make(_BYTEWISE)
    with Client(site.scp) as client, OracleLog(site.oracle, "bytewise") as log:
        client.send(store_message(instance, fragment=1))
        status = client.await_status()
        log.note(instance, status)
        client.release()
    verdict.require(status == SUCCESS, f"a data set in PDVs of one byte was answered with {status:04X}")


class _Memory:
    """How much the listener has grown, at its largest, since it was warm."""

    def __init__(self, site: Site) -> None:
        self._process = site.listener(0)
        good = _GoodClient(site)
        for _ in range(_WARM_UP):
            good.ask()
        self._before = self._largest = self._resident()

    @property
    def grown(self) -> float:
        """MB."""
        return (self._largest - self._before) / 1e6

    def look(self) -> None:
        """Take note of how large it is now."""
        self._largest = max(self._largest, self._resident())

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)


if __name__ == "__main__":
    main()
