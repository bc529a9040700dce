"""Questions to the archive: a query sees everything that was acknowledged before it began."""

from collections.abc import Iterator, Sequence

from pacs_core.archive.indexing import wait_until_committed
from pacs_core.model import Header, Query, StoredObject
from pacs_core.ports import IndexReader, Journal


class Queries:
    """Finds and locates. Thread-safe.

    Args:
        timeout: seconds to wait for the index to catch up with the journal; IndexUnavailable after that.
    """

    def __init__(self, reader: IndexReader, journal: Journal, *, timeout: float = 30) -> None:
        self._reader = reader
        self._journal = journal
        self._timeout = timeout

    def find(self, query: Query) -> Iterator[Header]:
        """The matching entities (see ports.IndexReader.find)."""
        wait_until_committed(self._journal, self._timeout)
        return self._reader.find(query)

    def locate(self, query: Query) -> Sequence[StoredObject]:
        """The instances below the named entities (see ports.IndexReader.locate)."""
        wait_until_committed(self._journal, self._timeout)
        return self._reader.locate(query)
