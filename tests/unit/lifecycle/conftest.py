"""An archive without its network: what arrives is placed and indexed by the real parts, on a real PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from pydicom.datadict import tag_for_keyword

from pacs_core.archive.indexing import Committer
from pacs_core.archive.ingest import Ingest
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.lake import LakeReader
from pacs_core.index.postgres import Database
from pacs_core.index.reader import LakeIndexReader
from pacs_core.model import UID, Duplicates, InstanceRecord, InvalidUIDs, Layout, Origin, StoreRequest
from pacs_core.storage.journal import SegmentJournal
from pacs_core.storage.landing import LandingDirectory
from pacs_core.storage.tiers import open_tier
from pacs_core.storage.uncommitted import JournalReader
from tests.support.catalog import Catalogs
from tests.support.tiered import TieredHome
from tests.unit.index.conftest import Place, catalogs, new_place, place

__all__ = ["catalogs", "new_place", "place"]

START = datetime(2024, 2, 29, 12, tzinfo=UTC)
CT = "1.2.840.10008.5.1.4.1.1.2"


def data_set(**attributes: str | bytes) -> bytes:
    """A data set in implicit VR little endian, its values as they are."""
    elements = {}
    for keyword, value in {"SOPClassUID": CT, **attributes}.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        raw = value.encode() if isinstance(value, str) else value
        raw += b"\0" * (len(raw) % 2)
        elements[tag] = pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw)) + raw
    # Behind everything that is indexed, what nobody knows.
    return b"".join(elements[tag] for tag in sorted(elements)) + pack("<HHI", 0x7FE1, 0x0010, 8) + b"\xff\xfe\0 odd "


class Archive:
    """What arrives, one minute after the other."""

    def __init__(self, root: Path, place: Place, *, layout: Layout = Layout.UID, duplicates: Duplicates = Duplicates.KEEP_FIRST) -> None:
        self.root, self.place = root, place
        self.journal = SegmentJournal(root / "journal", content_bytes=16 << 20)
        self.landing = LandingDirectory(root / "hot")
        self.stores = {tier: open_tier(str(root / tier)) for tier in ("hot", "warm")}
        self.ingest = Ingest(self.landing, self.journal, layout=layout, duplicates=duplicates, invalid_uids=InvalidUIDs.DIGEST)
        self._now = START

    def store(self, instance: str, *, study: str, series: str, source: str = "CT1", later: float = 1.0, **attributes: str | bytes) -> None:
        """An instance arrives, so many minutes after the one before."""
        self._now += timedelta(minutes=later, microseconds=3)
        request = StoreRequest(UID(CT), UID(instance), UID("1.2.840.10008.1.2"), Origin(source, "PACS", self._now))
        uids = {"SOPInstanceUID": instance, "SeriesInstanceUID": series, "StudyInstanceUID": study}
        with self.ingest.begin(request) as ingestion:
            ingestion.write(data_set(**uids, **attributes))
            ingestion.finish()

    def index(self, place: Place | None = None) -> None:
        """Everything that is journalled is placed and indexed, by the archive's own committer."""
        place = place or self.place
        with (
            closing(LakeIndexWriter(place.catalog_url, place.data_path)) as writer,
            closing(LakeIndexReader(LakeReader(place.catalog_url, place.data_path), Database(place.catalog_url))) as reader,
        ):
            committer = Committer(JournalReader(self.root / "journal"), writer, reader, self.stores, self.landing, interval=0.01, rows=7)
            while committer.commit_pending():
                pass

    def records(self) -> list[InstanceRecord]:
        """What is journalled and not indexed."""
        return [entry.record for entry in JournalReader(self.root / "journal").pending(100_000)[0]]

    def close(self) -> None:
        self.journal.close()


@pytest.fixture
def new_archive(tmp_path: Path, new_place: Callable[[], Place]) -> Iterator[Callable[..., Archive]]:
    made: list[Archive] = []

    def make(**options: object) -> Archive:
        made.append(Archive(tmp_path / f"home{len(made)}", new_place(), **options))  # type: ignore[arg-type]  # handed through
        return made[-1]

    yield make
    for each in made:
        each.close()


def fill(archive: Archive) -> None:
    """Several patients, studies and series; a study whose description changes; odd text; an instance that is sent twice."""
    for number in range(12):
        archive.store(
            f"1.1.1.{12 - number}", study="1.1", series=f"1.1.{number % 2 + 1}", PatientID="P1", PatientName=f"First^Form{number}",
            StudyDescription=f"description {number}", InstanceNumber=str(number), Modality="CT", StudyDate="20240229",
        )  # fmt: skip
    latin: dict[str, Any] = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen".encode("latin-1")}
    archive.store("1.2.1.1", study="1.2", series="1.2.1", source="MR 2", PatientID="P2", IssuerOfPatientID="H", **latin)
    japanese = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    archive.store("1.3.1.1", study="1.3", series="1.3.1", PatientID="P3", SpecificCharacterSet="\\ISO 2022 IR 87", PatientName=japanese)
    archive.store("1.4.1.1", study="1.4", series="1.4.1", source="", PatientID="P2", PatientName=b"no\xff\xfecharset\x00", StudyDate="2024")
    archive.store("not a UID", study="also none", series="none\x01", PatientID="")
    archive.store("1.5.1.1", study="1.5", series="1.1.1", PatientID="P1", PatientName="Another^Form")
    archive.store("1.1.1.8", study="1.1", series="1.1.1", PatientID="P1", PatientName="Sent^Again", later=2000)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, catalogs: Catalogs) -> Iterator[TieredHome]:
    """Three local tiers, shared by the tests of a module: each brings studies of its own. What differs between local and remote is
    told by the contract tests.
    """
    root: Path = tmp_path_factory.mktemp("tiered")
    made = TieredHome(root / "home", catalogs.prepared(), {name: {"url": str(root / name)} for name in ("warm", "cold")})
    yield made
    made.close()
