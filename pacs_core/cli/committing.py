"""The index committer: a process of its own, so that it never takes the interpreter from those that receive.

`pacs up` runs it as a part. Where there is none, a listener or an import keeps one, as its child, for all processes of the
home. It ends in order when the pipe to it closes, that is, when its keeper has ended, in whatever way.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog

from pacs_core.cli.stopping import leave, serve_until_signalled
from pacs_core.settings import Settings, load_settings
from pacs_core.storage.files import sole
from pacs_core.supervisor.runtime import prepare_home
from pacs_core.telemetry import logging as telemetry
from pacs_core.wiring import intake

log = structlog.get_logger(__name__)

_LOOK_AGAIN = 0.5  # seconds


def commit(home: Path | None, *, until_end_of_input: bool) -> None:
    """Index what is acknowledged until SIGTERM or SIGINT, or until standard input ends; what is pending then is committed first."""
    settings = load_settings(home)
    telemetry.configure(settings.log_level)
    prepare_home(settings.home)
    stopping = threading.Event()
    if until_end_of_input:
        threading.Thread(target=_await_end_of_input, args=(stopping,), daemon=True).start()
    with intake.committing(settings):
        tell_ready()
        serve_until_signalled(partial(_wait_for, stopping), stopping.set)
    leave()  # DuckDB's threads have been seen to abort a process whose interpreter goes away under them


def _wait_for(event: threading.Event) -> None:
    event.wait()


def _await_end_of_input(ended: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    ended.set()


def tell_ready() -> None:
    """Tell the process that started us, if it wants to know, that this part does its work."""
    descriptor = os.environ.pop("PACS_READY_FD", "")
    if descriptor.isdigit():
        with os.fdopen(int(descriptor), "w") as pipe:
            pipe.write("ready\n")


@contextmanager
def kept_committer(settings: Settings) -> Iterator[None]:
    """While the context lasts, see to it that a committer runs for this home, whoever started it."""
    stopping = threading.Event()
    keeper = threading.Thread(target=_keep, args=(settings, stopping), name="committer-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stopping.set()
        keeper.join()


def _keep(settings: Settings, stopping: threading.Event) -> None:
    """A process boundary: without a committer the archive takes instances in all the same."""
    while not stopping.is_set():
        try:
            with sole(settings.journal_directory, "keeper") as is_keeper:
                if is_keeper and not _is_running(settings.journal_directory):
                    _run_child(settings, stopping)
        except Exception:
            log.exception("committer_not_kept")
        stopping.wait(_LOOK_AGAIN)


def _run_child(settings: Settings, stopping: threading.Event) -> None:
    """Run a committer until it dies or the keeper stops; it then finishes by itself, and nobody waits for that."""
    command = [sys.executable, "-m", "pacs_core.cli.main", "commit", "--home", str(settings.home), "--until-end-of-input"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    assert child.stdin is not None, "it is a pipe"
    with child.stdin:
        while not stopping.is_set() and child.poll() is None:
            stopping.wait(_LOOK_AGAIN)
    if child.returncode is not None:
        log.warning("committer_died", status=child.returncode)


def _is_running(directory: Path) -> bool:
    with sole(directory, "committer") as is_free:
        return not is_free
