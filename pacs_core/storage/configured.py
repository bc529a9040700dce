"""The tiers by name, as the settings have them: one that is entered later is found by processes that run already."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping

import structlog

from pacs_core.errors import ConfigurationError, StorageUnavailable
from pacs_core.ports import ObjectStore

log = structlog.get_logger(__name__)

_LOOK_AGAIN = 5.0  # seconds, at least, between two looks for a name that is not there


def tier_named(tiers: Mapping[str, ObjectStore], name: str) -> ObjectStore:
    """The tier, or archive destination, of that name. StorageUnavailable if there is none: what it holds is out of reach, not gone."""
    try:
        return tiers[name]
    except KeyError:
        raise StorageUnavailable(f"the tier {name} is not configured; its table is missing from pacs.toml") from None


class ConfiguredTiers(Mapping[str, ObjectStore]):
    """Thread-safe. A name that is not known is looked for in the settings once more: a flow may already have moved studies to a tier
    that was entered after this process began. What is known stays as it is.

    Args:
        tiers: those that are known from the start.
        load: the tiers as the settings have them now; ConfigurationError.
    """

    def __init__(self, tiers: Mapping[str, ObjectStore], load: Callable[[], Mapping[str, ObjectStore]]) -> None:
        self._tiers = tiers
        self._load = load
        self._looked_at = float("-inf")
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> ObjectStore:
        if name not in self._tiers:
            self._look_again()
        return self._tiers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tiers)

    def __len__(self) -> int:
        return len(self._tiers)

    def _look_again(self) -> None:
        with self._lock:
            if time.monotonic() < self._looked_at + _LOOK_AGAIN:
                return
            self._looked_at = time.monotonic()
            try:
                self._tiers = {**self._load(), **self._tiers}
            except ConfigurationError as exc:
                log.warning("settings_not_read", reason=str(exc))
