"""What is scheduled, and who is therefore expected."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from pacs_core.errors import ConfigurationError
from pacs_core.hl7.orders import Order
from pacs_core.hl7.server import OrderServer
from pacs_core.index.postgres import Database
from pacs_core.index.prefetches import Prefetches
from pacs_core.index.worklist import ATTRIBUTES, Worklist
from pacs_core.model import Header, PriorRequest
from pacs_core.ports.modality import Entry
from pacs_core.settings import Settings
from pacs_core.supervisor.flow_starter import FlowStarter
from pacs_core.supervisor.postgres import catalog_url
from pacs_core.telemetry.behind import Behind
from pacs_core.workflow.worklist import item_of

_PREFETCH_AT_MOST_EVERY = 5.0


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


@contextmanager
def prior_requests(settings: Settings, database: Database) -> Iterator[Behind[PriorRequest]]:
    """Where whoever answers worklist queries notes the patients: they are entered behind the answer, and `prefetch` is started."""
    queue, start = Prefetches(database), FlowStarter("prefetch", settings.flow_api_url, at_most_every=_PREFETCH_AT_MOST_EVERY)

    def enter(requests: Sequence[PriorRequest]) -> None:
        if settings.prefetch_sources and queue.request(requests):
            start()

    with closing(Behind(enter, name="prior-requests")) as noting:
        yield noting
