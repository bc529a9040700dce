"""The DICOM port and every service on it."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pacs_core.archive.captures import Captures
from pacs_core.archive.indexing import wait_until_committed
from pacs_core.archive.queries import Queries
from pacs_core.archive.retrieval import Retrieval
from pacs_core.archive.safekeeping import Safekeeping
from pacs_core.dicom.sop_classes import is_storable
from pacs_core.dimse.callers import Callers
from pacs_core.dimse.courier import Courier
from pacs_core.dimse.listener import Limits, Listener
from pacs_core.dimse.pool import AssociationPool
from pacs_core.dimse.services import Service
from pacs_core.dimse.services.commitment import CommitmentService
from pacs_core.dimse.services.performed_step import PerformedStepService
from pacs_core.dimse.services.printing import PrintService
from pacs_core.dimse.services.query import QueryService
from pacs_core.dimse.services.retrieve import Retrieve
from pacs_core.dimse.services.storage import Storage
from pacs_core.dimse.services.unified_step import UnifiedStepService
from pacs_core.dimse.services.verification import Verification
from pacs_core.dimse.services.worklist import WorklistService
from pacs_core.index.associations import Associations
from pacs_core.index.commitments import CommitmentRequests, Commitments
from pacs_core.index.copies import CopyReader
from pacs_core.index.event_reports import EventReports
from pacs_core.index.operational import Peers
from pacs_core.index.performed_steps import PerformedSteps
from pacs_core.index.postgres import Database
from pacs_core.index.print_jobs import PrintJobs
from pacs_core.index.unified_steps import UnifiedSteps
from pacs_core.index.worklist import Worklist
from pacs_core.model import AssociationRecord, Header, PriorRequest
from pacs_core.ports.modality import WorklistQuery
from pacs_core.settings import Settings
from pacs_core.storage.journal import SegmentJournal
from pacs_core.storage.print_spool import PrintSpool
from pacs_core.supervisor.postgres import catalog_url
from pacs_core.telemetry.behind import Behind
from pacs_core.telemetry.timing import Timings
from pacs_core.wiring import exchange, index, intake, orders, tiers
from pacs_core.workflow.committing import CommitmentChecker
from pacs_core.workflow.rendering import Renderer
from pacs_core.workflow.retries import Retries
from pacs_core.workflow.subscriptions import GLOBAL
from pacs_core.workflow.unified_events import of_restart, reports
from pacs_core.workflow.worklist import StepState, item_of

_SETTLING_PATIENCE = 60.0


@contextmanager
def listener(settings: Settings) -> Iterator[Listener]:
    """One listener process: every service on the DICOM port. It answers as soon as it is bound; the index is opened later."""
    intake.raise_descriptor_limit()
    with (
        closing(intake.journal(settings, content_bytes=settings.journal_bytes)) as to,
        closing(exchange.association_pool(settings)) as pool,
        exchange.retrieval(settings) as reading,
        closing(Database(catalog_url(settings))) as database,
        closing(Behind(Associations(database).record, name="associations")) as associations,
        closing(Behind(Worklist(database).record, name="worklist-queries")) as asked,
        orders.prior_requests(settings, database) as expected,
        _courier(settings, database) as courier,
        _checker(settings, database, to, courier) as checker,
        _renderer(settings, database, to) as renderer,
        closing(Behind[datetime](lambda starts: _announce_restart(database, starts[0]), name="restart")) as restarted,
    ):
        restarted.note(datetime.now(UTC))
        services = _Serving(settings, to, pool, reading, database, asked, expected, courier, checker, renderer, Timings())
        yield _listener(settings, services, associations)


def _announce_restart(database: Database, started_at: datetime) -> None:
    """To those who were subscribed to unified procedure steps by then (PS3.4 CC.2.4.3)."""
    (report,) = reports(GLOBAL, [of_restart()], [""])
    UnifiedSteps(database).announce(report, started_at)


@contextmanager
def _courier(settings: Settings, database: Database) -> Iterator[Courier]:
    """Delivers event reports while the context lasts."""
    with closing(Courier(EventReports(database), Peers(database), exchange.caller(settings), _retries(settings))) as delivering:
        delivering.start()
        yield delivering


@contextmanager
def _checker(settings: Settings, database: Database, to: SegmentJournal, courier: Courier) -> Iterator[CommitmentChecker]:
    """Checks what peers ask us to commit to, while the context lasts."""
    checker = CommitmentChecker(
        Commitments(database),
        Safekeeping(tiers.stores(settings), CopyReader(database), read=settings.commitment_verify == "hash"),
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
    captures = Captures(intake.ingest(settings, to), ae_title=settings.ae_title) if settings.print_store else None
    jobs, spool, done = PrintJobs(database), _spool(settings), tiers.prints(settings)
    with closing(Renderer(jobs, spool, done, captures, _retries(settings))) as rendering:
        rendering.start()
        yield rendering


def _spool(settings: Settings) -> PrintSpool:
    return PrintSpool(settings.print_spool, limit=settings.print_spool_bytes, reserve=settings.reserve_bytes)


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
        queries, known = Queries(index.index_reader(settings), self.journal), Peers(self.database)
        return (
            Verification(),
            Storage(intake.ingest(settings, self.journal), self.timings, private=settings.accept_private_sop_classes),
            QueryService(queries, ae_title=settings.ae_title, fuzzy_names=settings.fuzzy_names),
            Retrieve(queries, self.reading, known, self.pool, self.timings),
            WorklistService(Worklist(self.database), states=_offered(settings), asked=self._note_query, expected=self._expect),
            PerformedStepService(PerformedSteps(self.database), notified=settings.mpps_notify, told=self.courier.hasten),
            CommitmentService(Commitments(self.database), CommitmentRequests(self.database), self.checker, self.courier, known),
            UnifiedStepService(UnifiedSteps(self.database), known, worklist=settings.ae_title, told=self.courier.hasten),
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
