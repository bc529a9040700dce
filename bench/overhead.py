"""What a flow costs beside what it does: `python -m bench.overhead [--rounds 3] [--quick]`. Instances per second of `migrate` to S3.

In turn by the flow, on the Prefect and Dask of a `pacs up`, and by the mover alone, in two processes that are there already. The flow
is timed by its own record in `flow_run`; what `pacs flow run` takes in all, the start of a process included, is a row of its own.
"""

import os
import time
from collections.abc import Callable
from datetime import datetime

from bench.command import parse, scratch
from bench.moving import Move, mover
from bench.storing import store_studies
from bench.table import Ratio, interleave, report
from pacs_core.settings import load_settings
from pacs_core.wiring import intake
from tests.support.archive import Archive, running_archive
from tests.support.clouds import DurableS3Server
from tests.support.processes import assert_succeeded

_COUNT, _PER_STUDY = 10_000, 100
_FLOW, _WHOLE, _CORE = "the flow", "`pacs flow run` as a whole", "the mover alone"
_RULE = '[[migrations]]\nname = "bench"\nsource = "hot"\ntarget = "warm"\n'
_PATIENCE = 900.0  # seconds


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    count = options.scaled(_COUNT)
    with scratch() as root:
        server = DurableS3Server(root / "s3")
        server.start()
        home = root / "home"
        home.mkdir()
        (home / "pacs.toml").write_text(f'[tiers.warm]\nurl = "{server.bucket()}"\nendpoint = "{server.endpoint}"\n{_RULE}')
        try:
            with running_archive(home, settings=server.environment) as archive:
                os.environ.update(archive.env)
                store_studies(archive.scp, root / "sent", "MR", count, per_study=_PER_STUDY)
                if not intake.catch_up(load_settings(), patience=120):
                    raise SystemExit("the index does not catch up")
                whole: list[float] = []
                with mover() as move:
                    measures = {_FLOW: _by_flow(archive, move, count, whole), _CORE: _alone(move, count)}
                    results = interleave(measures, rounds=options.rounds)
        finally:
            server.stop()
    figures = {**results, _WHOLE: whole[-options.rounds :]}
    report(f"migrate {count} MR to S3", "instances/s", figures, us=_FLOW, targets=[Ratio(_FLOW, _CORE, 1 / 1.1)])


def _by_flow(archive: Archive, move: Move, count: int, whole: list[float]) -> Callable[[int], float]:
    def measure(_: int) -> float:
        began = time.perf_counter()
        assert_succeeded(archive.run_pacs("flow", "run", "migrate", timeout=_PATIENCE))
        whole.append(count / (time.perf_counter() - began))
        (run,) = archive.sql("SELECT started_at, ended_at FROM flow_run WHERE flow = 'migrate' ORDER BY started_at DESC LIMIT 1")
        started, ended = (datetime.fromisoformat(run[name]) for name in ("started_at", "ended_at"))
        _move_back(move, count)
        return count / (ended - started).total_seconds()

    return measure


def _alone(move: Move, count: int) -> Callable[[int], float]:
    def measure(_: int) -> float:
        instances, seconds = move("MR", "hot", "warm")
        if instances != count:
            raise SystemExit(f"{instances} of {count} instances were moved")
        _move_back(move, count)
        return instances / seconds

    return measure


def _move_back(move: Move, count: int) -> None:
    instances, _ = move("MR", "warm", "hot")
    if instances != count:
        raise SystemExit(f"{instances} of {count} instances came back")


if __name__ == "__main__":
    main()
