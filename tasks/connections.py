"""The index as a worker process keeps it open from task to task: to open it takes longer than to verify many a shard.

One set for each index that the process has worked for. All of it is thread-safe and finds its way back when PostgreSQL has died: a
task may see one retryable error then.
"""

import threading
from dataclasses import dataclass

from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.locations import LakeLocations
from pacs_core.index.reader import LakeIndexReader
from pacs_core.index.removals import LakeRemovals
from pacs_core.settings import Settings
from pacs_core.supervisor.postgres import catalog_url
from pacs_core.wiring import index


@dataclass(frozen=True, slots=True)
class Connections:
    """What tasks work with. They close none of it."""

    reader: LakeIndexReader
    writer: LakeIndexWriter
    locations: LakeLocations
    removals: LakeRemovals


_kept: dict[tuple[str, str], Connections] = {}
_turn = threading.Lock()


def connections(settings: Settings) -> Connections:
    """Those of the settings' index; opened where they are first used."""
    place = catalog_url(settings), settings.index_data
    with _turn:
        if place not in _kept:
            writer = index.index_writer(settings)
            _kept[place] = Connections(
                index.index_reader(settings), writer, index.locations(settings, writer), index.removals(settings, writer)
            )
        return _kept[place]


def close_connections() -> None:
    """Close all that are kept. No task may be running."""
    with _turn:
        while _kept:
            _, each = _kept.popitem()
            for part in (each.reader, each.locations, each.removals, each.writer):
                part.close()
