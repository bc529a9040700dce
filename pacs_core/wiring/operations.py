"""What flows do to studies, by the rules of the settings."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pacs_core.errors import ConfigurationError
from pacs_core.index.locations import LakeLocations
from pacs_core.index.recovery import IndexRecovery
from pacs_core.index.removals import LakeRemovals
from pacs_core.lifecycle.archiving import Archiver
from pacs_core.lifecycle.backup import Backups
from pacs_core.lifecycle.moving import Mover
from pacs_core.lifecycle.rebuilding import Rebuild, Workplace
from pacs_core.lifecycle.repairing import Repairer
from pacs_core.lifecycle.retention import Retention
from pacs_core.lifecycle.rules import ArchivalRule, MigrationRule, RetentionRule, Selection, Watermarks
from pacs_core.settings import TIER_NAMES, Settings, StudySelection
from pacs_core.storage.tiers import open_tier
from pacs_core.wiring import index, intake, tiers

_SETTLING_PATIENCE = 60.0


def mover(settings: Settings, where: LakeLocations) -> Mover:
    """Moves objects between tiers."""
    return Mover(tiers.stores(settings), where, tiers.landing(settings), settings.scratch_directory)


def archiver(settings: Settings, where: LakeLocations) -> Archiver:
    """Archives studies and brings them back."""
    return Archiver(tiers.stores(settings), mover(settings, where), where, tiers.landing(settings), settings.scratch_directory)


def retention(settings: Settings, where: LakeLocations, out: LakeRemovals) -> Retention:
    """Removes studies."""
    return Retention(
        tiers.stores(settings),
        where,
        out,
        tiers.landing(settings),
        settings.scratch_directory,
        lambda: intake.await_commit(settings, _SETTLING_PATIENCE),
    )


def repairer(settings: Settings, where: LakeLocations) -> Repairer:
    """Writes damaged objects anew."""
    return Repairer(tiers.stores(settings), where, tiers.landing(settings), settings.scratch_directory)


def rebuild(settings: Settings) -> Rebuild:
    """Makes the index anew from the tiers. To be closed."""
    by_tier = tiers.stores(settings)
    by_speed = {name: by_tier[name] for name in TIER_NAMES if name in settings.tiers}
    writer = index.index_writer(settings)
    return Rebuild(by_speed, Workplace(settings.home / "rebuild"), writer, IndexRecovery(writer))


def backups(settings: Settings, destination: str = "") -> Backups:
    """The backups at a destination: a tier by name, an absolute path or a URL; by default `<home>/backups`. ConfigurationError."""
    if destination in settings.tiers:
        tier = settings.tiers[destination]
        store = open_tier(f"{tier.url.rstrip('/')}/.backups", tiers.options_of(tier))  # hidden: nobody takes them for instances
    elif destination and "://" not in destination and not destination.startswith("/"):
        raise ConfigurationError(f"destination: {destination} is no tier, no absolute path and no URL")
    else:
        store = open_tier(destination or str(settings.home / "backups"))
    return Backups(store, settings.scratch_directory)


def migration_rules(settings: Settings, now: datetime) -> Sequence[MigrationRule]:
    """The rules of the settings, as they read at an instant."""
    return [
        MigrationRule(
            name=rule.name,
            source=rule.source,
            target=rule.target,
            selection=_selection(rule, now),
            watermarks=Watermarks(rule.above, rule.below) if rule.above is not None and rule.below is not None else None,
        )
        for rule in settings.migrations
    ]


def retention_rules(settings: Settings, now: datetime) -> Sequence[RetentionRule]:
    """The rules of the settings, as they read at an instant."""
    return [RetentionRule(rule.name, tuple(rule.tiers or settings.tiers), _selection(rule, now)) for rule in settings.retentions]


def archival_rules(settings: Settings, now: datetime) -> Sequence[ArchivalRule]:
    """The rules of the settings, as they read at an instant."""
    return [
        ArchivalRule(rule.name, tuple(rule.tiers or settings.tiers), rule.destination, _selection(rule, now)) for rule in settings.archivals
    ]


def _selection(rule: StudySelection, now: datetime) -> Selection:
    return Selection(
        received_before=now - timedelta(days=rule.older_than_days) if rule.older_than_days else None,
        used_before=now - timedelta(days=rule.unused_days) if rule.unused_days else None,
        modalities=tuple(rule.modalities),
        at_least=rule.min_bytes,
        at_most=rule.max_bytes,
    )
