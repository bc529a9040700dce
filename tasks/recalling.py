"""The step of the `recall` flow."""

from collections.abc import Sequence

from prefect import task

from pacs_core.lifecycle import recalling
from pacs_core.lifecycle.recalling import RecalledStudy
from pacs_core.model import UID, Level, Query, StoredObject
from pacs_core.settings import load_settings
from pacs_core.wiring import index, tiers
from tasks.connections import connections
from tasks.policy import RETRIES


@task(**RETRIES)
def recall_wanted(*, dry_run: bool) -> Sequence[RecalledStudy]:
    """One round over the studies that are wanted."""
    settings = load_settings()

    def locate(study: UID) -> Sequence[StoredObject]:
        return connections(settings).reader.locate(Query(Level.STUDY, {Level.STUDY.key: study}))

    stores, recalls, copies = tiers.stores(settings), index.recalls(settings), index.copies(settings)
    return recalling.recall(recalls, locate, copies, stores, dry_run=dry_run)


def want(study: UID) -> None:
    """Enter a study among those that are wanted."""
    index.recalls(load_settings()).want(study)
