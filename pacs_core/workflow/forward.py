"""Rules of forwarding, and how long a failure keeps an instance or a peer waiting. Pure."""

from dataclasses import dataclass
from datetime import timedelta

_FIRST_DELAY = 60.0  # seconds
_LONGEST_DELAY = 3600.0
_DOUBLINGS = 6


@dataclass(frozen=True, slots=True)
class Rule:
    """What is sent to whom. All conditions must hold.

    Attributes:
        peer: the AE title.
        modalities, sources: of instances, and of who sent them; empty for any.
        condition: in SQL, on the tables of the index; "" for none.
        give_up_after: how long an instance is tried.
    """

    name: str
    peer: str
    modalities: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    condition: str = ""
    give_up_after: timedelta = timedelta(hours=72)


def delay_after(failures: int) -> float:
    """Seconds until the next attempt, after so many that failed in a row before this one."""
    return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(failures, _DOUBLINGS))
