"""What is known of them, and what else is kept in the catalog."""

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime

from pacs_core.index.backup import IndexBackup
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.commitments import CommitmentRequests
from pacs_core.index.contents import digests
from pacs_core.index.copies import CopyReader
from pacs_core.index.event_reports import EventReports
from pacs_core.index.forwards import Forwards
from pacs_core.index.lake import LakeReader, prepare_index
from pacs_core.index.locations import LakeLocations
from pacs_core.index.maintenance import Upkeep
from pacs_core.index.operational import FlowRuns, Peers, Plans, Recalls
from pacs_core.index.postgres import Database
from pacs_core.index.prefetches import Prefetches
from pacs_core.index.print_jobs import PrintJobs
from pacs_core.index.reader import LakeIndexReader
from pacs_core.index.removals import Holds, LakeRemovals
from pacs_core.index.sql import SQLSession
from pacs_core.index.worklist import Worklist
from pacs_core.model import Peer
from pacs_core.settings import Settings
from pacs_core.supervisor.postgres import catalog_url


def prepare(settings: Settings) -> None:
    """Bring the catalog's tables up to date. Idempotent; for whoever starts the archive."""
    prepare_index(catalog_url(settings), settings.index_data)


def index_reader(settings: Settings) -> LakeIndexReader:
    """Answers queries."""
    return LakeIndexReader(LakeReader(catalog_url(settings), settings.index_data), Database(catalog_url(settings)))


def index_writer(settings: Settings) -> LakeIndexWriter:
    """Commits to the index."""
    return LakeIndexWriter(catalog_url(settings), settings.index_data)


def sql_session(settings: Settings) -> SQLSession:
    """Read-only SQL for people."""
    return SQLSession(catalog_url(settings), settings.index_data)


def locations(settings: Settings, writer: LakeIndexWriter | None = None) -> LakeLocations:
    """Where instances are. To be closed, the writer with it; without one it has one of its own."""
    return LakeLocations(catalog_url(settings), writer or index_writer(settings))


def removals(settings: Settings, writer: LakeIndexWriter | None = None) -> LakeRemovals:
    """Takes instances out of the index. To be closed, the writer with it; without one it has one of its own."""
    return LakeRemovals(catalog_url(settings), writer or index_writer(settings))


def copies(settings: Settings) -> CopyReader:
    """Where else instances are."""
    return CopyReader(Database(catalog_url(settings)))


def holds(settings: Settings) -> Holds:
    """What retention must not touch."""
    return Holds(Database(catalog_url(settings)))


def peers(settings: Settings) -> Peers:
    """The remote application entities."""
    return Peers(Database(catalog_url(settings)))


def peer_named(settings: Settings, ae_title: str) -> Peer | None:
    """The peer, or None."""
    with closing(Database(catalog_url(settings))) as database:
        return Peers(database).get(ae_title)


def worklist(settings: Settings) -> Worklist:
    """What is scheduled."""
    return Worklist(Database(catalog_url(settings)))


def event_reports(settings: Settings) -> EventReports:
    """What peers are owed, and were told."""
    return EventReports(Database(catalog_url(settings)))


def commitment_requests(settings: Settings) -> CommitmentRequests:
    """What we have asked peers to commit to."""
    return CommitmentRequests(Database(catalog_url(settings)))


def print_jobs(settings: Settings) -> PrintJobs:
    """What is to be printed, and what was."""
    return PrintJobs(Database(catalog_url(settings)))


def prefetches(settings: Settings) -> Prefetches:
    """Who is expected, and which priors are to be fetched. To be closed."""
    return Prefetches(Database(catalog_url(settings)))


def forwards(settings: Settings) -> Forwards:
    """What is to be sent on. To be closed."""
    return Forwards(catalog_url(settings))


def recalls(settings: Settings) -> Recalls:
    """The studies that are wanted back from an archive class."""
    return Recalls(Database(catalog_url(settings)))


def plans(settings: Settings) -> Plans:
    """What dry runs have planned."""
    return Plans(Database(catalog_url(settings)))


def flow_runs(settings: Settings) -> FlowRuns:
    """What the flows did."""
    return FlowRuns(Database(catalog_url(settings)))


def index_backup(settings: Settings) -> IndexBackup:
    """The index as files, and back. To be closed."""
    return IndexBackup(catalog_url(settings), settings.index_data, index_writer(settings))


def index_digests(settings: Settings) -> Mapping[str, str]:
    """What two indexes are compared by (index.contents)."""
    with closing(LakeReader(catalog_url(settings), settings.index_data)) as lake:
        return digests(lake)


def upkeep(settings: Settings, *, expire_before: datetime) -> Upkeep:
    """Looks after the index. To be closed."""
    return Upkeep(index_writer(settings), expire_before=expire_before)
