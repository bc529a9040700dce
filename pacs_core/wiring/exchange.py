"""What is exchanged with peers: associations that we open, and the way out."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta

from pacs_core.archive.accesses import AccessLog
from pacs_core.archive.queries import Queries
from pacs_core.archive.retrieval import Retrieval
from pacs_core.dimse.client import TLS, Caller
from pacs_core.dimse.fetching import IngestReceiver
from pacs_core.dimse.forwarding import Forwarder
from pacs_core.dimse.pool import AssociationPool
from pacs_core.dimse.priors import RemoteArchive
from pacs_core.errors import ConfigurationError
from pacs_core.index.copies import CopyReader
from pacs_core.index.forwards import Forwards
from pacs_core.index.locations import LakeLocations
from pacs_core.index.operational import Recalls, StudyAccesses
from pacs_core.index.postgres import Database
from pacs_core.index.prefetches import Pace, Prefetches
from pacs_core.index.reader import LakeIndexReader
from pacs_core.model import Peer
from pacs_core.settings import Settings
from pacs_core.storage.cache import ObjectCache
from pacs_core.supervisor.flow_starter import FlowStarter
from pacs_core.supervisor.postgres import catalog_url
from pacs_core.wiring import index, intake, tiers
from pacs_core.workflow.forward import Rule
from pacs_core.workflow.held import IndexedStudies
from pacs_core.workflow.prefetching import Prefetcher

_RECALL_AT_MOST_EVERY = 30.0


def caller(settings: Settings, ae_title: str = "") -> Caller:
    """Opens associations, in our name or in another."""
    tls = TLS(settings.tls_ca_file, settings.tls_certificate_file, settings.tls_key_file)
    return Caller(ae_title or settings.ae_title, timeout=settings.association_timeout, tls=tls)


def association_pool(settings: Settings) -> AssociationPool:
    """Associations to peers, opened in our name. To be closed."""
    return AssociationPool(
        caller(settings), idle=settings.peer_idle_timeout, maximum=settings.peer_associations, patience=settings.association_timeout
    )


@contextmanager
def retrieval(settings: Settings) -> Iterator[Retrieval]:
    """The way out."""
    database = Database(catalog_url(settings))
    with (
        closing(database),
        closing(AccessLog(StudyAccesses(database))) as accesses,
        closing(
            Retrieval(
                tiers.stores(settings),
                ObjectCache(settings.cache_directory, limit=settings.cache_bytes),
                copies=CopyReader(database),
                recalls=Recalls(database),
                recall=FlowStarter("recall", settings.flow_api_url, at_most_every=_RECALL_AT_MOST_EVERY),
                accesses=accesses,
                verify=settings.verify_on_read,
            )
        ) as reading,
    ):
        yield reading


@contextmanager
def forwarder(settings: Settings, ledger: Forwards, where: LakeLocations) -> Iterator[Forwarder]:
    """Sends on what has arrived."""
    with closing(association_pool(settings)) as pool, retrieval(settings) as reading:
        yield Forwarder(ledger, where.objects, reading, pool)


def forward_rules(settings: Settings) -> Sequence[Rule]:
    """The rules of the settings."""
    return [
        Rule(
            rule.name,
            rule.peer,
            modalities=tuple(rule.modalities),
            sources=tuple(rule.sources),
            condition=rule.condition,
            give_up_after=timedelta(hours=rule.give_up_hours),
        )
        for rule in settings.forwards
    ]


@contextmanager
def prefetcher(settings: Settings, queue: Prefetches, reader: LakeIndexReader, run: str) -> Iterator[Prefetcher]:
    """Fetches priors from the sources of the settings. ConfigurationError for one that is no peer."""
    with closing(intake.journal(settings)) as to:
        receiver = IngestReceiver(intake.ingest(settings, to))
        sources = {
            source.peer: RemoteArchive(caller(settings), _source(settings, source.peer), receiver if source.how == "get" else None)
            for source in settings.prefetch_sources
        }
        yield Prefetcher(queue, sources, IndexedStudies(Queries(reader, to)), run)


def _source(settings: Settings, ae_title: str) -> Peer:
    peer = index.peer_named(settings, ae_title)
    if peer is None:
        raise ConfigurationError(f"prefetch_sources: {ae_title} is no peer; enter it with `pacs peer add {ae_title} HOST PORT`")
    return peer


def pace(settings: Settings) -> Pace:
    """How fast priors are fetched."""
    of_source = {source.peer: source.per_minute for source in settings.prefetch_sources}
    return Pace(settings.prefetch_at_once, settings.prefetch_per_minute, of_source)
