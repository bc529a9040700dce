"""The way in: journal, ingest, import, and the committer behind them."""

import resource
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Self

import structlog

from pacs_core.archive.importing import Importer
from pacs_core.archive.indexing import Committer, wait_until_committed
from pacs_core.archive.ingest import Ingest
from pacs_core.errors import UnavailableError
from pacs_core.settings import Settings
from pacs_core.storage.journal import SegmentJournal
from pacs_core.storage.landing import LandingDirectory
from pacs_core.storage.uncommitted import JournalReader
from pacs_core.telemetry.timing import Timings
from pacs_core.wiring import index, tiers

log = structlog.get_logger(__name__)

_PREPARE_AGAIN = 0.5  # seconds
_PREPARE_AGAIN_AFTER_CRASH = 10.0
_JOIN_TIMEOUT = 3.0


def journal(settings: Settings, *, content_bytes: int = 0) -> SegmentJournal:
    """The durable queue between acknowledgement and index."""
    return SegmentJournal(settings.journal_directory, content_bytes=content_bytes)


def ingest(settings: Settings, to: SegmentJournal) -> Ingest:
    """The way in."""
    store = LandingDirectory(settings.landing_root, reserve=settings.reserve_bytes)
    return Ingest(store, to, layout=settings.layout, duplicates=settings.duplicates, invalid_uids=settings.invalid_uids)


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


def committer(settings: Settings) -> Committer:
    """What indexes the journals of this home."""
    return Committer(
        JournalReader(settings.journal_directory),
        index.index_writer(settings),
        index.index_reader(settings),
        tiers.stores(settings),
        tiers.landing(settings),
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
            index.prepare(self._settings)
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


def catch_up(settings: Settings, *, patience: float) -> bool:
    """Wait until everything acknowledged is in the index, for so many seconds at most; whether it is."""
    try:
        await_commit(settings, patience)
    except UnavailableError:
        return False
    return True


def await_commit(settings: Settings, patience: float) -> None:
    with closing(journal(settings)) as of_home:
        wait_until_committed(of_home, patience)


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may; each association and each incoming instance takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a kernel may refuse its own limit; the present one then stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
