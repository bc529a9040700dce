"""Pages of prints as instances of the archive: each takes the durable way in that everything takes."""

from collections.abc import Iterable

from pacs_core.archive.ingest import Ingest
from pacs_core.dicom.secondary_capture import SOP_CLASS, TRANSFER_SYNTAX, CapturedPage, head_of
from pacs_core.model import Origin, StoreRequest


class Captures:
    """Stores pages. Thread-safe.

    Args:
        ingest: the way in.
        ae_title: ours.
    """

    def __init__(self, ingest: Ingest, *, ae_title: str) -> None:
        self._ingest = ingest
        self._ae_title = ae_title

    def store(self, page: CapturedPage, pixels: Iterable[bytes]) -> None:
        """Store a page. Repeatable: the same page is the same instance, byte for byte. Errors as `Ingest.begin` and `Ingestion.finish`."""
        origin = Origin(page.calling_ae, self._ae_title, page.requested_at)
        with self._ingest.begin(StoreRequest(SOP_CLASS, page.SOPInstanceUID, TRANSFER_SYNTAX, origin)) as ingestion:
            ingestion.write(head_of(page))
            length = 0
            for part in pixels:
                ingestion.write(part)
                length += len(part)
            ingestion.write(b"\0" * (length % 2))
            ingestion.finish()
