"""Migration to S3: `python -m bench.migrate [--rounds 5] [--quick]`. Instances per second of our mover and of `rclone copy --checksum`.

Both send the same files to the same server (s3rver, which keeps them on disk), sixteen at a time: rclone in one process, ours in two,
as two Dask workers do. Ours also changes the index and removes the local files; rclone only copies. The server shares the machine.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench.command import parse, scratch
from bench.moving import PROCESSES, Move, mover
from bench.peers import ours, settle
from bench.storing import store_studies
from bench.table import Ratio, interleave, report
from tests.support.archive import Listener
from tests.support.clouds import DurableS3Server
from tests.support.processes import run

_LOADS = (("MR", 2000), ("CT", 800))
_PER_STUDY = 100
_EACH = 8  # transfers of a process


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    if shutil.which("rclone") is None:
        raise SystemExit("this needs rclone: apt-get install rclone")
    with scratch() as root:
        server = DurableS3Server(root / "s3")
        server.start()
        try:
            os.environ.update(server.environment)
            settings = {"PACS_TIERS__WARM__URL": server.bucket(), "PACS_TIERS__WARM__ENDPOINT": server.endpoint}
            with ours(root / "pacs", settings=settings) as archive:
                os.environ.update({name: value for name, value in archive.env.items() if name.startswith("PACS_")})
                with mover() as move:
                    for modality, count in _LOADS:
                        _compare(archive, server, move, root / modality, modality, options.scaled(count), options.rounds)
        finally:
            server.stop()


def _compare(archive: Listener, server: DurableS3Server, move: Move, folder: Path, modality: str, count: int, rounds: int) -> None:
    store_studies(archive.scp, folder / "sent", modality, count, per_study=_PER_STUDY)
    settle(archive)
    copied = folder / "copied"
    shutil.copytree(archive.home / "hot", copied, ignore=shutil.ignore_patterns(".*"), copy_function=os.link)
    results = interleave({"pacs migrate": _ours(move, modality), "rclone copy": _rclone(server, copied, count)}, rounds=rounds)
    report(
        f"migrate to S3, {count} {modality}", "instances/s", results, us="pacs migrate", targets=[Ratio("pacs migrate", "rclone copy", 1.0)]
    )
    move(modality, "hot", "warm")  # out of the way of the next load


def _ours(move: Move, modality: str) -> Callable[[int], float]:
    def measure(_: int) -> float:
        instances, seconds = move(modality, "hot", "warm")
        move(modality, "warm", "hot")
        return instances / seconds

    return measure


def _rclone(server: DurableS3Server, source: Path, count: int) -> Callable[[int], float]:
    # rclone does not take a bundle of certificates with its own transport; this server speaks plain HTTP.
    env = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"} | dict(server.environment)

    def measure(_: int) -> float:
        bucket = server.bucket().removeprefix("s3://")
        remote = f":s3,provider=Other,env_auth=true,endpoint='{server.endpoint}',force_path_style=true:{bucket}"
        command = ["rclone", "copy", "--checksum", "--transfers", str(PROCESSES * _EACH), "--checkers", "8", str(source), remote]
        started = time.perf_counter()
        done = run(command, env=env, timeout=600)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"rclone failed: {done.stdout[-500:]}")
        listed = subprocess.run(["rclone", "size", "--json", remote], env=env, capture_output=True, text=True, check=True)
        if f'"count":{count},' not in listed.stdout.replace(" ", ""):
            raise SystemExit(f"rclone copied {listed.stdout}")
        return count / seconds

    return measure


if __name__ == "__main__":
    main()
