"""What the supervisor knows about one part of the archive. Values only."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class PartState(StrEnum):
    """The life of a part."""

    WAITING = "waiting"  # for the parts it needs
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"  # died; its next start is due
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Part:
    """One child process and how to look after it.

    Attributes:
        name: as in `pacs status` and in the name of its log.
        command: program and arguments.
        address: what somebody connects to, for people; "" where nobody does.
        env: added to the supervisor's own environment.
        user: the system user it runs as; None: as ourselves.
        needs: parts that outlive it when the archive stops, and that are ready before it is started.
        eager: started without waiting for what it needs; it waits itself, once its slow imports are done.
        prepare: called before every start, in a thread. Raises PacsError where the part cannot be started.
        probe: whether it answers, asked in a thread until it does. None: it says so itself, through PACS_READY_FD.
        complete: called in a thread once it answers and before it counts as ready. If it raises, the part is stopped
            and started again.
        stop_signal: asks it to stop.
        stop_timeout: seconds after which its process group is killed.
        start_timeout: seconds in which it has to become ready.
    """

    name: str
    command: tuple[str, ...]
    address: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    needs: tuple[str, ...] = ()
    eager: bool = False
    prepare: Callable[[], None] | None = None
    probe: Callable[[], bool] | None = None
    complete: Callable[[], None] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 10.0
    start_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class PartStatus:
    """A part at one moment."""

    name: str
    state: PartState
    address: str = ""
    pid: int | None = None
    restarts: int = 0
