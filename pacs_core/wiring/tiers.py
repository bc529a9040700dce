"""Where objects are, and prints."""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pacs_core.errors import ConfigurationError
from pacs_core.lifecycle.rules import Fill
from pacs_core.ports import ObjectStore
from pacs_core.settings import Settings, TierSettings, load_settings
from pacs_core.storage.configured import ConfiguredTiers
from pacs_core.storage.landing import LandingDirectory
from pacs_core.storage.options import TierOptions
from pacs_core.storage.prints import Prints
from pacs_core.storage.tiers import Tier, open_tier


def stores(settings: Settings) -> Mapping[str, ObjectStore]:
    """The configured tiers and archive destinations by name. A process has each of them once, with its connections."""
    return ConfiguredTiers(_tiers(settings), lambda: _tiers(load_settings(settings.home)))


def _tiers(settings: Settings) -> Mapping[str, ObjectStore]:
    return {name: _opened(tier.model_dump_json(exclude_unset=True)) for name, tier in {**settings.archives, **settings.tiers}.items()}


@lru_cache(maxsize=64)
def _opened(tier: str) -> Tier:
    """A tier, by its settings as JSON. To connect to a cloud takes 0.2 s of CPU, and a worker is given a shard every few seconds."""
    chosen = TierSettings.model_validate_json(tier)
    return open_tier(chosen.url, options_of(chosen))


def options_of(tier: TierSettings) -> TierOptions:
    """How a tier is reached."""
    return TierOptions(filesystem=tier.options, **tier.model_dump(exclude={"url", "options"}))


def landing(settings: Settings) -> LandingDirectory:
    """Where instances are."""
    return LandingDirectory(settings.landing_root)


def prints(settings: Settings) -> Prints:
    """What was printed."""
    return Prints(settings.prints_directory, reserve=settings.reserve_bytes)


def fill(settings: Settings, tier: str) -> Fill:
    """How full a local tier's file system is, without what only root may use. ConfigurationError for a remote tier, which is never full."""
    url = settings.tiers[tier].url
    if "://" in url and not url.startswith("file:///"):
        raise ConfigurationError(
            f"tiers.{tier} is at {url.split('://')[0]}://, where nothing is ever full; a rule with above and below needs a local tier"
        )
    root = Path(url.removeprefix("file://"))
    while not root.exists():
        root = root.parent
    room = os.statvfs(root)
    capacity = (room.f_blocks - room.f_bfree + room.f_bavail) * room.f_frsize
    return Fill(used=capacity - room.f_bavail * room.f_frsize, capacity=capacity)
