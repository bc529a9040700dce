"""The steps of the `backup` and `restore` flows."""

from collections.abc import Sequence
from contextlib import closing

from prefect import task

from pacs_core.lifecycle.backup import Backup
from pacs_core.settings import load_settings
from pacs_core.wiring import index, operations
from tasks.policy import RETRIES


@task(**RETRIES)
def list_backups(destination: str) -> Sequence[Backup]:
    """The backups that are there, oldest first."""
    return operations.backups(load_settings(), destination).all()


@task(**RETRIES)
def make_backup(destination: str, keep: int) -> Backup:
    """Back the index up, then forget old backups."""
    settings = load_settings()
    with closing(index.index_backup(settings)) as catalog:
        return operations.backups(settings, destination).make(catalog, keep=keep)


@task(**RETRIES)
def find_backup(destination: str, name: str) -> Backup:
    """The backup of that name, or the newest. NotFound."""
    return operations.backups(load_settings(), destination).get(name)


@task(**RETRIES)
def restore_backup(destination: str, name: str, *, overwrite: bool) -> Backup:
    """Check a backup, then make the index what it says. ConfigurationError if it is not empty and may not be overwritten."""
    settings = load_settings()
    index.prepare(settings)
    with closing(index.index_backup(settings)) as catalog:
        return operations.backups(settings, destination).restore(catalog, name, overwrite=overwrite)
