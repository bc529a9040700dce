"""A flow in a process of its own, for an archive that has no flow runner: made to be waited for, or killed."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import Daemon

_SCRIPT = """
import json, sys
from importlib import import_module
name, parameters = sys.argv[1], json.loads(sys.argv[2])
state = getattr(import_module(f"flows.{name}"), name)(**parameters, return_state=True)
print(f"outcome: {state.name}: {state.message}", flush=True)
"""
_ENDS_WITHIN = 180.0  # seconds; Prefect alone takes some


class FlowProcess:
    """A run of a flow.

    Args:
        env: the environment that means the archive.
        prefect_api_url: the server that the run is reported to.
        log: what it prints.
    """

    def __init__(self, flow: str, env: Mapping[str, str], prefect_api_url: str, log: Path, **parameters: object) -> None:
        command = [sys.executable, "-c", _SCRIPT, flow, json.dumps(parameters)]
        self.daemon = Daemon(command, log=log, env={**env, "PREFECT_API_URL": prefect_api_url})

    def outcome(self) -> str:
        """Its state and message, once it has ended."""
        line = self.daemon.wait_for("outcome: ", within=_ENDS_WITHIN)
        self.daemon.process.wait(timeout=_ENDS_WITHIN)
        return line.removeprefix("outcome: ")

    def kill(self) -> None:
        """kill -9."""
        self.daemon.kill()
