"""The archive's mover without its flow: studies are moved by two processes that are there already, as two Dask workers are.

What the environment says is the archive (PACS_HOME and the like) is what is moved in.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context

from pacs_core.lifecycle.plan import Plan, Step
from pacs_core.lifecycle.rules import Selection, steps_of
from pacs_core.model import Change
from pacs_core.settings import load_settings
from pacs_core.wiring import operations
from tasks.connections import connections
from tasks.operation import SHARD_BYTES, SHARD_INSTANCES

PROCESSES = 2

Move = Callable[[str, str, str], tuple[int, float]]


@contextmanager
def mover() -> Iterator[Move]:
    """Moves all studies of a modality from a tier to another; instances, and the seconds that they took, planning included."""
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        for ready in [processes.submit(time.sleep, 1) for _ in range(PROCESSES)]:
            ready.result()

        def move(modality: str, source: str, target: str) -> tuple[int, float]:
            started = time.perf_counter()
            facts = connections(load_settings()).reader.study_facts(source)
            steps = steps_of("bench", target, Selection(modalities=(modality,)), facts)
            shards = Plan(tuple(steps)).shards(instances=SHARD_INSTANCES, bytes=SHARD_BYTES)
            moved = sum(processes.map(move_shard, shards))
            if moved != sum(step.instances for step in steps):
                raise SystemExit(f"{moved} of {sum(step.instances for step in steps)} instances were moved")
            return moved, time.perf_counter() - started

        yield move


def move_shard(steps: Sequence[Step], *, keep: bool = False) -> int:
    """Take steps of one source and target; how many instances were moved."""
    settings = load_settings()
    change = Change(run="bench", flow="migrate", action="migrated", policy="bench", at=datetime.now(UTC))
    return operations.mover(settings, connections(settings).locations).move(steps, change, keep=keep).instances
