"""A program that commits batches in children, each of which dies as `kill -9` kills at one step more of its commit.

A step is a statement of PostgreSQL or DuckDB that has been completed. Prints how many children died, once one has come
through alive.
"""

import itertools
import os
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.postgres import Session
from pacs_core.model import InstanceRecord, Origin
from tests.support.records import RECEIVED, record

DIED = 9


def first(step: int) -> list[InstanceRecord]:
    """What is indexed before: an object that will be replaced, one that will be repeated."""
    return [record(number, study=f"1.{step}", series=f"1.{step}.1") for number in (1, 2)]


def batch(step: int) -> list[InstanceRecord]:
    """What is committed while dying."""
    study, series = f"1.{step}", f"1.{step}.1"
    newer = Origin("MODALITY", "PACS", RECEIVED + timedelta(minutes=1))
    replacement = record(1, study=study, series=series, path=f"{study}/new.dcm", sha256="e" * 64, replaces=True, origin=newer)
    fresh = [record(number, study=study, series=f"1.{step}.2") for number in range(60)]
    return [*fresh, replacement, record(2, study=study, series=series)]


def final_paths(steps: int) -> Iterable[str]:
    """The paths that the index must hold in the end, each once."""
    return {item.path for step in range(steps) for item in batch(step)}


class Mortal:
    """Counts what passes, and dies."""

    def __init__(self, dies_at: int) -> None:
        self._left = dies_at

    def step(self) -> None:
        self._left -= 1
        if self._left < 0:
            os._exit(DIED)


class MortalConnection:
    """A DuckDB connection whose statements are steps."""

    def __init__(self, connection: Any, mortal: Mortal) -> None:
        self._connection = connection
        self._mortal = mortal

    def execute(self, *arguments: Any) -> Any:
        result = self._connection.execute(*arguments)
        self._mortal.step()
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def commit_mortally(catalog_url: str, data_path: str, step: int) -> None:
    writer = LakeIndexWriter(catalog_url, data_path)
    writer.commit(first(step))
    mortal = Mortal(step)
    run = Session.run

    def mortal_run(self: Session, sql: str, **parameters: object) -> Any:
        result = run(self, sql, **parameters)
        mortal.step()
        return result

    Session.run = mortal_run  # type: ignore[method-assign]
    writer._lake = MortalConnection(writer._lake, mortal)  # type: ignore[assignment]
    writer.commit(batch(step))


def main() -> None:
    catalog_url, data_path = sys.argv[1:]
    for step in itertools.count():
        child = os.fork()
        if not child:
            try:
                commit_mortally(catalog_url, data_path, step)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != DIED:
            assert code == 0, code
            print(step)  # noqa: T201 the program's answer
            return


if __name__ == "__main__":
    main()
