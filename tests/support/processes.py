"""Child processes of the tests: started, watched through a log file, stopped by their own id."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.waiting import eventually

SCRIPTS = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, each different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without the settings of any archive, flow engine or surrounding make, plus `extra`."""
    foreign = ("PACS_", "PREFECT_", "DASK_", "MAKE", "MFLAGS", "ARGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"} | extra


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> "subprocess.CompletedProcess[str]":
    """Run to the end; standard output and error together, as text."""
    argv = [str(part) for part in command]
    return subprocess.run(
        argv, env=env, cwd=cwd, timeout=timeout, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    )


def assert_succeeded(done: "subprocess.CompletedProcess[str]") -> "subprocess.CompletedProcess[str]":
    """The same, or AssertionError with the whole output."""
    assert done.returncode == 0, f"{done.args} exited {done.returncode}:\n{done.stdout}"
    return done


class Daemon:
    """A long-running child whose output goes to a file."""

    def __init__(self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._start = output.tell()
            argv = [str(part) for part in command]
            self.process = subprocess.Popen(argv, env=env, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def output(self) -> str:
        """What it has written since it was started."""
        return self.log.read_bytes()[self._start :].decode(errors="replace")

    def wait_for(self, line_start: str, *, within: float) -> str:
        """The first line that begins so; AssertionError with the output if the process ends or time is up."""

        def found() -> str | None:
            lines = [line for line in self.output().splitlines() if line.startswith(line_start)]
            if not lines and self.process.poll() is not None:
                raise AssertionError(f"exited {self.process.returncode} before {line_start!r}:\n{self.output()}")
            return lines[0] if lines else None

        return eventually(found, within=within, what=f"{line_start!r} in {self.log}")

    def wait_for_port(self, port: int, *, within: float) -> None:
        """Return once something accepts connections there."""

        def accepts() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"exited {self.process.returncode} before it listened:\n{self.output()}")
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        eventually(accepts, within=within, what=f"a listener on port {port}")

    def stop(self, *, within: float = 30, sig: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end and wait; killed, and an AssertionError, if it does not. Harmless when it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # Python says what its threads were doing
            self.process.wait()
            raise AssertionError(f"did not end within {within} s of {sig.name}:\n{self.output()}") from None

    def kill(self) -> None:
        """End it without a chance to clean up."""
        self.process.kill()
        self.process.wait()


@contextmanager
def daemon(command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Iterator[Daemon]:
    """A Daemon for the length of a `with` block."""
    child = Daemon(command, log=log, env=env, cwd=cwd)
    try:
        yield child
    finally:
        child.stop()
