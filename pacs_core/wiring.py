"""The only place that picks implementations and hands them their values from the settings."""

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Self

import structlog

from pacs_core.archive.accesses import AccessLog
from pacs_core.archive.captures import Captures
from pacs_core.archive.importing import Importer
from pacs_core.archive.indexing import Committer, wait_until_committed
from pacs_core.archive.ingest import Ingest
from pacs_core.archive.queries import Queries
from pacs_core.archive.retrieval import Retrieval
from pacs_core.archive.safekeeping import Safekeeping
from pacs_core.dicom.sop_classes import is_storable
from pacs_core.dimse.callers import Callers
from pacs_core.dimse.client import TLS, Caller
from pacs_core.dimse.courier import Courier
from pacs_core.dimse.fetching import IngestReceiver
from pacs_core.dimse.forwarding import Forwarder
from pacs_core.dimse.listener import Limits, Listener
from pacs_core.dimse.pool import AssociationPool
from pacs_core.dimse.priors import RemoteArchive
from pacs_core.dimse.services import Service
from pacs_core.dimse.services.commitment import CommitmentService
from pacs_core.dimse.services.performed_step import PerformedStepService
from pacs_core.dimse.services.printing import PrintService
from pacs_core.dimse.services.query import QueryService
from pacs_core.dimse.services.retrieve import Retrieve
from pacs_core.dimse.services.storage import Storage
from pacs_core.dimse.services.verification import Verification
from pacs_core.dimse.services.worklist import WorklistService
from pacs_core.errors import ConfigurationError, PacsError, UnavailableError
from pacs_core.hl7.orders import Order
from pacs_core.hl7.server import OrderServer
from pacs_core.index.associations import Associations
from pacs_core.index.backup import IndexBackup
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.commitments import CommitmentRequests, Commitments
from pacs_core.index.contents import digests
from pacs_core.index.copies import CopyReader
from pacs_core.index.event_reports import EventReports
from pacs_core.index.forwards import Forwards
from pacs_core.index.lake import LakeReader, prepare_index
from pacs_core.index.locations import LakeLocations
from pacs_core.index.maintenance import Upkeep
from pacs_core.index.operational import FlowRuns, Peers, Plans, Recalls, StudyAccesses
from pacs_core.index.performed_steps import PerformedSteps
from pacs_core.index.postgres import Database
from pacs_core.index.prefetches import Pace, Prefetches
from pacs_core.index.print_jobs import PrintJobs
from pacs_core.index.reader import LakeIndexReader
from pacs_core.index.recovery import IndexRecovery
from pacs_core.index.removals import Holds, LakeRemovals
from pacs_core.index.sql import SQLSession
from pacs_core.index.worklist import ATTRIBUTES, Worklist
from pacs_core.lifecycle.archiving import Archiver
from pacs_core.lifecycle.backup import Backups
from pacs_core.lifecycle.moving import Mover
from pacs_core.lifecycle.rebuilding import Rebuild, Workplace
from pacs_core.lifecycle.repairing import Repairer
from pacs_core.lifecycle.retention import Retention
from pacs_core.lifecycle.rules import ArchivalRule, Fill, MigrationRule, RetentionRule, Selection, Watermarks
from pacs_core.model import AssociationRecord, Header, Peer, PriorRequest
from pacs_core.ports import ObjectStore
from pacs_core.ports.modality import Entry, WorklistQuery
from pacs_core.settings import TIER_NAMES, Settings, StudySelection, TierSettings, load_settings
from pacs_core.storage.cache import ObjectCache
from pacs_core.storage.configured import ConfiguredTiers
from pacs_core.storage.journal import SegmentJournal
from pacs_core.storage.landing import LandingDirectory
from pacs_core.storage.options import TierOptions
from pacs_core.storage.print_spool import PrintSpool
from pacs_core.storage.prints import Prints
from pacs_core.storage.tiers import Tier, open_tier
from pacs_core.storage.uncommitted import JournalReader
from pacs_core.supervisor.postgres import catalog_url
from pacs_core.telemetry.behind import Behind
from pacs_core.telemetry.timing import Timings
from pacs_core.workflow.committing import CommitmentChecker
from pacs_core.workflow.forward import Rule
from pacs_core.workflow.held import IndexedStudies
from pacs_core.workflow.prefetching import Prefetcher
from pacs_core.workflow.rendering import Renderer
from pacs_core.workflow.retries import Retries
from pacs_core.workflow.worklist import StepState, item_of

log = structlog.get_logger(__name__)

_PREPARE_AGAIN = 0.5  # seconds
_PREPARE_AGAIN_AFTER_CRASH = 10.0
_JOIN_TIMEOUT = 3.0
_SETTLING_PATIENCE = 60.0
_RECALL_AT_MOST_EVERY = 30.0
_PREFETCH_AT_MOST_EVERY = 5.0
_FLOW_TIMEOUT = 5.0


def stores(settings: Settings) -> Mapping[str, ObjectStore]:
    """The configured tiers and archive destinations by name. A process has each of them once, with its connections."""
    return ConfiguredTiers(_tiers(settings), lambda: _tiers(load_settings(settings.home)))


def _tiers(settings: Settings) -> Mapping[str, ObjectStore]:
    return {name: _opened(tier.model_dump_json(exclude_unset=True)) for name, tier in {**settings.archives, **settings.tiers}.items()}


@lru_cache(maxsize=64)
def _opened(tier: str) -> Tier:
    """A tier, by its settings as JSON. To connect to a cloud takes 0.2 s of CPU, and a worker is given a shard every few seconds."""
    chosen = TierSettings.model_validate_json(tier)
    return open_tier(chosen.url, _options(chosen))


def _options(tier: TierSettings) -> TierOptions:
    return TierOptions(filesystem=tier.options, **tier.model_dump(exclude={"url", "options"}))


def landing(settings: Settings) -> LandingDirectory:
    """Where instances are."""
    return LandingDirectory(settings.landing_root)


def journal(settings: Settings, *, content_bytes: int = 0) -> SegmentJournal:
    """The durable queue between acknowledgement and index."""
    return SegmentJournal(settings.journal_directory, content_bytes=content_bytes)


def ingest(settings: Settings, to: SegmentJournal) -> Ingest:
    """The way in."""
    store = LandingDirectory(settings.landing_root, reserve=settings.reserve_bytes)
    return Ingest(store, to, layout=settings.layout, duplicates=settings.duplicates, invalid_uids=settings.invalid_uids)


def index_reader(settings: Settings) -> LakeIndexReader:
    """Answers queries."""
    return LakeIndexReader(LakeReader(catalog_url(settings), settings.index_data), Database(catalog_url(settings)))


def index_writer(settings: Settings) -> LakeIndexWriter:
    """Commits to the index."""
    return LakeIndexWriter(catalog_url(settings), settings.index_data)


def sql_session(settings: Settings) -> SQLSession:
    """Read-only SQL for people."""
    return SQLSession(catalog_url(settings), settings.index_data)


def catch_up(settings: Settings, *, patience: float) -> bool:
    """Wait until everything acknowledged is in the index, for so many seconds at most; whether it is."""
    try:
        _await_commit(settings, patience)
    except UnavailableError:
        return False
    return True


def _await_commit(settings: Settings, patience: float) -> None:
    with closing(journal(settings)) as of_home:
        wait_until_committed(of_home, patience)


def peers(settings: Settings) -> Peers:
    """The remote application entities."""
    return Peers(Database(catalog_url(settings)))


def worklist(settings: Settings) -> Worklist:
    """What is scheduled."""
    return Worklist(Database(catalog_url(settings)))


def worklist_entry(attributes: Header, source: str) -> Entry:
    """A worklist item from what somebody gives, as it is kept. RequestError for what cannot be scheduled (workflow.worklist.item_of)."""
    item = item_of(attributes)
    return Entry({keyword: item.text(keyword) for keyword in ATTRIBUTES}, item.scheduled_at, item.header, source)


@contextmanager
def order_server(settings: Settings) -> Iterator[OrderServer]:
    """Takes orders by HL7. ConfigurationError where no port is set."""
    if not settings.hl7_port:
        raise ConfigurationError("hl7_port is 0: orders are taken nowhere; set PACS_HL7_PORT, usually to 2575")
    with closing(Database(catalog_url(settings))) as database:
        store = Worklist(database)

        def keep(order: Order) -> int:
            entries = [worklist_entry(given, "hl7") for given in order.scheduled]
            return store.order(entries, order.cancelled)

        address = settings.hl7_host, settings.hl7_port
        yield OrderServer(address, stations=settings.hl7_stations, keep=keep, idle=settings.idle_timeout)


def commitment_requests(settings: Settings) -> CommitmentRequests:
    """What we have asked peers to commit to."""
    return CommitmentRequests(Database(catalog_url(settings)))


def caller(settings: Settings, ae_title: str = "") -> Caller:
    """Opens associations, in our name or in another."""
    tls = TLS(settings.tls_ca_file, settings.tls_certificate_file, settings.tls_key_file)
    return Caller(ae_title or settings.ae_title, timeout=settings.association_timeout, tls=tls)


def association_pool(settings: Settings) -> AssociationPool:
    """Associations to peers, opened in our name. To be closed."""
    return AssociationPool(
        caller(settings), idle=settings.peer_idle_timeout, maximum=settings.peer_associations, patience=settings.association_timeout
    )


def locations(settings: Settings, writer: LakeIndexWriter | None = None) -> LakeLocations:
    """Where instances are. To be closed, the writer with it; without one it has one of its own."""
    return LakeLocations(catalog_url(settings), writer or index_writer(settings))


def mover(settings: Settings, where: LakeLocations) -> Mover:
    """Moves objects between tiers."""
    return Mover(stores(settings), where, landing(settings), settings.scratch_directory)


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


def archiver(settings: Settings, where: LakeLocations) -> Archiver:
    """Archives studies and brings them back."""
    return Archiver(stores(settings), mover(settings, where), where, landing(settings), settings.scratch_directory)


def removals(settings: Settings, writer: LakeIndexWriter | None = None) -> LakeRemovals:
    """Takes instances out of the index. To be closed, the writer with it; without one it has one of its own."""
    return LakeRemovals(catalog_url(settings), writer or index_writer(settings))


def retention(settings: Settings, where: LakeLocations, out: LakeRemovals) -> Retention:
    """Removes studies."""
    return Retention(
        stores(settings),
        where,
        out,
        landing(settings),
        settings.scratch_directory,
        lambda: _await_commit(settings, _SETTLING_PATIENCE),
    )


def holds(settings: Settings) -> Holds:
    """What retention must not touch."""
    return Holds(Database(catalog_url(settings)))


def _selection(rule: StudySelection, now: datetime) -> Selection:
    return Selection(
        received_before=now - timedelta(days=rule.older_than_days) if rule.older_than_days else None,
        used_before=now - timedelta(days=rule.unused_days) if rule.unused_days else None,
        modalities=tuple(rule.modalities),
        at_least=rule.min_bytes,
        at_most=rule.max_bytes,
    )


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


def repairer(settings: Settings, where: LakeLocations) -> Repairer:
    """Writes damaged objects anew."""
    return Repairer(stores(settings), where, landing(settings), settings.scratch_directory)


def rebuild(settings: Settings) -> Rebuild:
    """Makes the index anew from the tiers. To be closed."""
    tiers = stores(settings)
    by_speed = {name: tiers[name] for name in TIER_NAMES if name in settings.tiers}
    writer = index_writer(settings)
    return Rebuild(by_speed, Workplace(settings.home / "rebuild"), writer, IndexRecovery(writer))


def index_backup(settings: Settings) -> IndexBackup:
    """The index as files, and back. To be closed."""
    return IndexBackup(catalog_url(settings), settings.index_data, index_writer(settings))


def backups(settings: Settings, destination: str = "") -> Backups:
    """The backups at a destination: a tier by name, an absolute path or a URL; by default `<home>/backups`. ConfigurationError."""
    if destination in settings.tiers:
        tier = settings.tiers[destination]
        store = open_tier(f"{tier.url.rstrip('/')}/.backups", _options(tier))  # hidden: nobody takes them for instances
    elif destination and "://" not in destination and not destination.startswith("/"):
        raise ConfigurationError(f"destination: {destination} is no tier, no absolute path and no URL")
    else:
        store = open_tier(destination or str(settings.home / "backups"))
    return Backups(store, settings.scratch_directory)


def upkeep(settings: Settings, *, expire_before: datetime) -> Upkeep:
    """Looks after the index. To be closed."""
    return Upkeep(index_writer(settings), expire_before=expire_before)


def index_digests(settings: Settings) -> Mapping[str, str]:
    """What two indexes are compared by (index.contents)."""
    with closing(LakeReader(catalog_url(settings), settings.index_data)) as lake:
        return digests(lake)


def plans(settings: Settings) -> Plans:
    """What dry runs have planned."""
    return Plans(Database(catalog_url(settings)))


def flow_runs(settings: Settings) -> FlowRuns:
    """What the flows did."""
    return FlowRuns(Database(catalog_url(settings)))


def recalls(settings: Settings) -> Recalls:
    """The studies that are wanted back from an archive class."""
    return Recalls(Database(catalog_url(settings)))


def copies(settings: Settings) -> CopyReader:
    """Where else instances are."""
    return CopyReader(Database(catalog_url(settings)))


def prefetches(settings: Settings) -> Prefetches:
    """Who is expected, and which priors are to be fetched. To be closed."""
    return Prefetches(Database(catalog_url(settings)))


def pace(settings: Settings) -> Pace:
    """How fast priors are fetched."""
    of_source = {source.peer: source.per_minute for source in settings.prefetch_sources}
    return Pace(settings.prefetch_at_once, settings.prefetch_per_minute, of_source)


@contextmanager
def prefetcher(settings: Settings, queue: Prefetches, reader: LakeIndexReader, run: str) -> Iterator[Prefetcher]:
    """Fetches priors from the sources of the settings. ConfigurationError for one that is no peer."""
    with closing(journal(settings)) as to:
        receiver = IngestReceiver(ingest(settings, to))
        sources = {
            source.peer: RemoteArchive(caller(settings), _source(settings, source.peer), receiver if source.how == "get" else None)
            for source in settings.prefetch_sources
        }
        yield Prefetcher(queue, sources, IndexedStudies(Queries(reader, to)), run)


def _source(settings: Settings, ae_title: str) -> Peer:
    peer = peer_named(settings, ae_title)
    if peer is None:
        raise ConfigurationError(f"prefetch_sources: {ae_title} is no peer; enter it with `pacs peer add {ae_title} HOST PORT`")
    return peer


def peer_named(settings: Settings, ae_title: str) -> Peer | None:
    """The peer, or None."""
    with closing(Database(catalog_url(settings))) as database:
        return Peers(database).get(ae_title)


@contextmanager
def prior_requests(settings: Settings, database: Database) -> Iterator[Behind[PriorRequest]]:
    """Where whoever answers worklist queries notes the patients: they are entered behind the answer, and `prefetch` is started."""
    queue, start = Prefetches(database), FlowStarter("prefetch", settings.flow_api_url, at_most_every=_PREFETCH_AT_MOST_EVERY)

    def enter(requests: Sequence[PriorRequest]) -> None:
        if settings.prefetch_sources and queue.request(requests):
            start()

    with closing(Behind(enter, name="prior-requests")) as noting:
        yield noting


def forwards(settings: Settings) -> Forwards:
    """What is to be sent on. To be closed."""
    return Forwards(catalog_url(settings))


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
def forwarder(settings: Settings, ledger: Forwards, where: LakeLocations) -> Iterator[Forwarder]:
    """Sends on what has arrived."""
    with closing(association_pool(settings)) as pool, retrieval(settings) as reading:
        yield Forwarder(ledger, where.objects, reading, pool)


@contextmanager
def retrieval(settings: Settings) -> Iterator[Retrieval]:
    """The way out."""
    database = Database(catalog_url(settings))
    with (
        closing(database),
        closing(AccessLog(StudyAccesses(database))) as accesses,
        closing(
            Retrieval(
                stores(settings),
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


class FlowStarter:
    """Runs a flow now, if a Prefect server answers; its schedule does later what this cannot. Called from any thread.

    Args:
        flow: its name.
        api_url: of the Prefect server.
        at_most_every: seconds; what is called sooner does nothing.
        run: starts a run of a flow; PacsError if that is impossible.
    """

    def __init__(
        self,
        flow: str,
        api_url: str,
        *,
        at_most_every: float,
        run: Callable[[str, str], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flow = flow
        self._api_url = api_url
        self._every = at_most_every
        self._start_run = run or _run_flow
        self._now = now
        self._last = float("-inf")
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Returns at once and never fails; does nothing where it has been called a moment before."""
        with self._lock:
            if self._now() - self._last < self._every:
                return
            self._last = self._now()
        threading.Thread(target=self._run, name=self._flow, daemon=True).start()

    def _run(self) -> None:
        try:
            self._start_run(self._api_url, self._flow)
        except PacsError as exc:
            log.debug("flow_not_started", flow=self._flow, reason=str(exc))


def _run_flow(api_url: str, flow: str) -> None:
    # Imported here: a listener that never starts a flow starts sooner without an HTTP client.
    from pacs_core.supervisor.flow_api import FlowApi

    with FlowApi(api_url, timeout=_FLOW_TIMEOUT) as api:
        api.run(flow)


def prepare(settings: Settings) -> None:
    """Bring the catalog's tables up to date. Idempotent; for whoever starts the archive."""
    prepare_index(catalog_url(settings), settings.index_data)


def committer(settings: Settings) -> Committer:
    """What indexes the journals of this home."""
    return Committer(
        JournalReader(settings.journal_directory),
        index_writer(settings),
        index_reader(settings),
        stores(settings),
        landing(settings),
        interval=settings.commit_interval,
        rows=settings.commit_rows,
        patience=settings.journal_bytes // 2,
        timings=Timings(),
    )


class _Committing:
    """What runs behind ingest, once for a home: the index is prepared, journals are committed.

    Retries for as long as PostgreSQL does not answer; nothing waits for it but the index.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._committer = committer(settings)
        self._stopping = threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._run, name="committing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        # Bounded, because a connection to a server that has stopped answering may hang; the thread is a daemon.
        self._thread.join(_JOIN_TIMEOUT)
        self._committer.stop()

    def _run(self) -> None:
        """A process boundary: the archive takes instances in whatever happens here."""
        while not self._stopping.is_set() and not self._start_committer():
            pass

    def _start_committer(self) -> bool:
        """Whether the index could be prepared and the committer started; waits where it could not."""
        try:
            prepare(self._settings)
            if not self._stopping.is_set():
                self._committer.start()
        except UnavailableError as exc:
            if not self._told:  # once, however long it takes
                log.warning("index_not_ready", reason=str(exc))
            self._told = True
            self._stopping.wait(_PREPARE_AGAIN)
        except Exception:
            log.exception("index_preparation_crashed")
            self._stopping.wait(_PREPARE_AGAIN_AFTER_CRASH)
        else:
            return True
        return False


def committing(settings: Settings) -> AbstractContextManager[object]:
    """What indexes the journals of this home while the context lasts. Leaving it commits what is pending."""
    return _Committing(settings)


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may; each association and each incoming instance takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a kernel may refuse its own limit; the present one then stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def importer(settings: Settings) -> Iterator[Importer]:
    """Takes in files from disk. Each is named at once: whoever imports is told which of them were held already."""
    raise_descriptor_limit()
    with closing(journal(settings)) as to:
        yield Importer(
            ingest(settings, to),
            settings.home / "import",
            ae_title=settings.ae_title,
            private=settings.accept_private_sop_classes,
        )


@contextmanager
def listener(settings: Settings) -> Iterator[Listener]:
    """One listener process: every service on the DICOM port. It answers as soon as it is bound; the index is opened later."""
    raise_descriptor_limit()
    with (
        closing(journal(settings, content_bytes=settings.journal_bytes)) as to,
        closing(association_pool(settings)) as pool,
        retrieval(settings) as reading,
        closing(Database(catalog_url(settings))) as database,
        closing(Behind(Associations(database).record, name="associations")) as associations,
        closing(Behind(Worklist(database).record, name="worklist-queries")) as asked,
        prior_requests(settings, database) as expected,
        _courier(settings, database) as courier,
        _checker(settings, database, to, courier) as checker,
        _renderer(settings, database, to) as renderer,
    ):
        services = _Serving(settings, to, pool, reading, database, asked, expected, courier, checker, renderer, Timings())
        yield _listener(settings, services, associations)


@contextmanager
def _courier(settings: Settings, database: Database) -> Iterator[Courier]:
    """Delivers event reports while the context lasts."""
    with closing(Courier(EventReports(database), Peers(database), caller(settings), _retries(settings))) as delivering:
        delivering.start()
        yield delivering


@contextmanager
def _checker(settings: Settings, database: Database, to: SegmentJournal, courier: Courier) -> Iterator[CommitmentChecker]:
    """Checks what peers ask us to commit to, while the context lasts."""
    checker = CommitmentChecker(
        Commitments(database),
        Safekeeping(stores(settings), CopyReader(database), read=settings.commitment_verify == "hash"),
        settle=lambda: wait_until_committed(to, _SETTLING_PATIENCE),
        supports=lambda sop_class: is_storable(sop_class, private=settings.accept_private_sop_classes),
        retries=_retries(settings),
        retrieve_ae=settings.ae_title,
        owed=courier.hasten,
    )
    with closing(checker):
        checker.start()
        yield checker


@contextmanager
def _renderer(settings: Settings, database: Database, to: SegmentJournal) -> Iterator[Renderer]:
    """Renders what is to be printed while the context lasts."""
    captures = Captures(ingest(settings, to), ae_title=settings.ae_title) if settings.print_store else None
    with closing(Renderer(PrintJobs(database), _spool(settings), prints(settings), captures, _retries(settings))) as rendering:
        rendering.start()
        yield rendering


def _spool(settings: Settings) -> PrintSpool:
    return PrintSpool(settings.print_spool, limit=settings.print_spool_bytes, reserve=settings.reserve_bytes)


def prints(settings: Settings) -> Prints:
    """What was printed."""
    return Prints(settings.prints_directory)


def print_jobs(settings: Settings) -> PrintJobs:
    """What is to be printed, and what was."""
    return PrintJobs(Database(catalog_url(settings)))


def _retries(settings: Settings) -> Retries:
    return Retries(
        timedelta(seconds=settings.report_retry_first),
        timedelta(seconds=settings.report_retry_longest),
        timedelta(days=settings.report_give_up_days),
    )


@dataclass(frozen=True, slots=True)
class _Serving:
    """What the services of a listener work with, opened and closed with it."""

    settings: Settings
    journal: SegmentJournal
    pool: AssociationPool
    reading: Retrieval
    database: Database
    asked: Behind[WorklistQuery]
    expected: Behind[PriorRequest]
    courier: Courier
    checker: CommitmentChecker
    renderer: Renderer
    timings: Timings

    def all(self) -> Sequence[Service]:
        """Every service that the archive offers."""
        settings = self.settings
        queries, known = Queries(index_reader(settings), self.journal), Peers(self.database)
        return (
            Verification(),
            Storage(ingest(settings, self.journal), self.timings, private=settings.accept_private_sop_classes),
            QueryService(queries, ae_title=settings.ae_title, fuzzy_names=settings.fuzzy_names),
            Retrieve(queries, self.reading, known, self.pool, self.timings),
            WorklistService(Worklist(self.database), states=_offered(settings), asked=self._note_query, expected=self._expect),
            PerformedStepService(PerformedSteps(self.database), notified=settings.mpps_notify, told=self.courier.hasten),
            CommitmentService(Commitments(self.database), CommitmentRequests(self.database), self.checker, self.courier, known),
            PrintService(
                PrintJobs(self.database),
                _spool(settings),
                dpi=settings.print_dpi,
                ae_title=settings.ae_title,
                told=self.renderer.hasten,
            ),
        )

    def _expect(self, items: Sequence[Header]) -> None:
        """The patients whom a modality was told of, where there is somebody to ask for their priors."""
        for header in items if self.settings.prefetch_sources else ():
            item = item_of(header)
            self.expected.note(
                PriorRequest(
                    item.text("PatientID"),
                    item.scheduled_at.date(),
                    IssuerOfPatientID=item.text("IssuerOfPatientID"),
                    Modality=item.text("Modality"),
                    BodyPartExamined=item.text("BodyPartExamined"),
                    reason="worklist",
                )
            )

    def _note_query(self, asked_at: datetime, calling_ae: str, status: int, matches: int, milliseconds: float) -> None:
        self.asked.note(WorklistQuery(asked_at, calling_ae, f"{status:04X}", matches, milliseconds))


def _offered(settings: Settings) -> Sequence[StepState]:
    """The states of worklist items that modalities are told of."""
    return (StepState.SCHEDULED, *([StepState.IN_PROGRESS] if settings.worklist_in_progress else []))


def _listener(settings: Settings, serving: _Serving, associations: Behind[AssociationRecord]) -> Listener:
    limits = Limits(
        associations=settings.max_associations,
        per_address=settings.max_connections_per_address,
        handshake=settings.association_timeout,
        silence=settings.association_timeout,
        idle=settings.idle_timeout,
    )
    address = settings.dicom_host, settings.dicom_port
    return Listener(
        address,
        ae_title=settings.ae_title if settings.check_called_ae_title else "",
        services=serving.all(),
        limits=limits,
        callers=Callers(Peers(serving.database), known_only=settings.known_callers_only),
        record=associations.note,
        timings=serving.timings,
    )
