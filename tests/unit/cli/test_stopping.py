"""A signal ends a serving process, whichever thread the kernel gives it to."""

import signal
import subprocess
import sys
import threading

import pytest

from pacs_core.cli.stopping import serve_until_signalled

_PROGRAM = """
import ctypes, os, signal, sys, threading
from pacs_core.cli.stopping import serve_until_signalled
stopped = threading.Event()
def serve():
    print("serving", flush=True)
    stopped.wait()
    print("ended in order", flush=True)
serve_until_signalled(serve, stopped.set)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        process.send_signal(number)
        assert process.stdout.read() == "ended in order\n"
    assert process.returncode == 0


def test_a_signal_that_another_thread_gets_is_noticed() -> None:
    stopped, serving = threading.Event(), threading.Event()

    def serve() -> None:
        serving.set()
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        assert stopped.wait(20)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        serve_until_signalled(serve, stopped.set)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert serving.is_set()


def test_a_process_that_leaves_has_said_what_it_had_to_say_and_has_succeeded() -> None:
    program = "import atexit; from pacs_core.cli.stopping import leave; atexit.register(print, 'late'); print('said'); leave()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "said\n"
