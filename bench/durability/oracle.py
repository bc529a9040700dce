"""What clients have sent and what they were answered, in files of their own that are synced after each response."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.durability.instances import Instance

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
NO_ANSWER = -1  # the association ended first, so the client cannot know

_SUFFIX = ".oracle"


class OracleLog:
    """One client's log. Belongs to one thread."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{name}{_SUFFIX}").open("a", encoding="ascii")

    def note(self, instance: Instance, status: int) -> None:
        """Remember an answer, durably."""
        self._file.write(f"{instance.SOPInstanceUID} {instance.sha256} {status}\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Oracle:
    """The logs of all clients.

    Attributes:
        acknowledged: the digests of the data sets that were acknowledged, by SOPInstanceUID, in the order of each client.
        tried: the digests of all data sets that were sent, whatever the answer.
        statuses: how often each status was answered.
    """

    acknowledged: dict[str, list[str]]
    tried: dict[str, set[str]]
    statuses: Counter[int]

    @classmethod
    def read(cls, folder: Path) -> "Oracle":
        """From the files of `OracleLog`."""
        return cls.of(line.split() for path in sorted(folder.glob(f"*{_SUFFIX}")) for line in path.read_text().splitlines())

    @classmethod
    def of(cls, attempts: Iterable[list[str]]) -> "Oracle":
        """From attempts as (UID, digest, status)."""
        oracle = cls({}, {}, Counter())
        for uid, sha256, status in attempts:
            oracle.tried.setdefault(uid, set()).add(sha256)
            oracle.statuses[int(status)] += 1
            if int(status) == SUCCESS:
                oracle.acknowledged.setdefault(uid, []).append(sha256)
        return oracle

    @property
    def refusals(self) -> Counter[int]:
        """The statuses that were answered and are not success."""
        return Counter({status: count for status, count in self.statuses.items() if status not in (SUCCESS, NO_ANSWER)})
