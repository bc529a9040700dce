"""Clients that send for as long as they are let, come back when they are cut off, and remember every answer."""

import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.durability.client import Client
from bench.durability.instances import Factory, Instance
from bench.durability.oracle import NO_ANSWER, SUCCESS, OracleLog
from tests.support.dcmtk import Scp
from tests.support.waiting import eventually

_LONGEST_ASSOCIATION = 40  # instances
_COME_BACK = 0.05  # seconds
_SHARE_REPEATED = 0.5  # of what was not acknowledged; the rest is given up, as by an operator


class Sender(threading.Thread):
    """One client.

    Attributes:
        acknowledged: how many instances so far.
        refused: how many answers that were not success.
        longest: seconds that it waited for one answer, at most.
        failure: what ended it other than `stop`.
    """

    def __init__(self, scp: Scp, logs: Path, *, seed: int, pause: float, size: int | None) -> None:
        super().__init__(name=f"sender-{seed}", daemon=True)
        self.acknowledged = self.refused = 0
        self.longest = 0.0
        self.failure: Exception | None = None
        self._scp = scp
        self._logs = logs
        self._pause, self._size = pause, size
        self._random = random.Random(seed)  # noqa: S311  # choices, not secrets
        self._factory = Factory(seed)
        self._stopping = threading.Event()
        self._pending: Instance | None = None

    def run(self) -> None:
        """Send until `stop`."""
        try:
            with OracleLog(self._logs, self.name) as log:
                while not self._stopping.is_set():
                    self._associate(log)
        except Exception as exc:  # noqa: BLE001  # the thread ends here; whoever joins it raises it
            self.failure = exc

    def stop(self) -> None:
        """Have it end after the instance that it is sending."""
        self._stopping.set()

    def _associate(self, log: OracleLog) -> None:
        """Send some instances on one association. Comes back later where there is nobody."""
        self._factory.new_study()
        try:
            client = Client(self._scp)
        except OSError:
            self._stopping.wait(_COME_BACK)
            return
        with client, suppress(OSError):
            for _ in range(self._random.randint(1, _LONGEST_ASSOCIATION)):
                if self._stopping.is_set():
                    break
                self._send(client, log)
                self._stopping.wait(self._random.expovariate(1 / self._pause) if self._pause else 0)
            client.release()

    def _send(self, client: Client, log: OracleLog) -> None:
        instance = self._pending or self._factory.make(self._size)
        status, started = NO_ANSWER, time.monotonic()
        try:
            status = client.store(instance)
        finally:
            self.longest = max(self.longest, time.monotonic() - started)
            log.note(instance, status)
            done = status == SUCCESS
            self._pending = instance if not done and self._random.random() < _SHARE_REPEATED else None
        self.acknowledged += done
        self.refused += not done


class Fleet:
    """Several senders, for the length of a `with` block. A sender that failed raises at its end.

    Args:
        scp: the archive.
        logs: where the oracle is written.
        count: how many senders.
        seed: of the first.
        pause: seconds between two instances of a sender, on average.
        size: of the instances, in bytes; None: random.
    """

    def __init__(self, scp: Scp, logs: Path, *, count: int, seed: int, pause: float = 0.02, size: int | None = None) -> None:
        self._senders = [Sender(scp, logs, seed=seed + number, pause=pause, size=size) for number in range(count)]

    @property
    def acknowledged(self) -> int:
        """How many instances so far."""
        return sum(sender.acknowledged for sender in self._senders)

    @property
    def refused(self) -> int:
        """How many answers so far that were not success."""
        return sum(sender.refused for sender in self._senders)

    @property
    def longest(self) -> float:
        """Seconds that one of them waited for an answer, at most."""
        return max(sender.longest for sender in self._senders)

    def wait_for_more(self, count: int, *, within: float = 60) -> None:
        """Return when so many more instances are acknowledged."""
        target = self.acknowledged + count

        def reached() -> bool:
            for sender in self._senders:
                if sender.failure is not None:
                    raise sender.failure
            return self.acknowledged >= target

        eventually(reached, within=within, what=f"{count} more acknowledged instances")

    def __enter__(self) -> Self:
        for sender in self._senders:
            sender.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for sender in self._senders:
            sender.stop()
        for sender in self._senders:
            sender.join()
        failures = [sender.failure for sender in self._senders if sender.failure is not None]
        if failures and error is None:
            raise failures[0]
