import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pacs_core.archive import indexing
from pacs_core.archive.indexing import Committer, wait_until_committed
from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.errors import DataSetMismatch, IndexUnavailable, StorageUnavailable
from pacs_core.model import UID, Header, InstanceRecord, Origin, Query, StoredObject, StoreRequest
from pacs_core.ports import CommitResult
from pacs_core.storage.journal import SegmentJournal
from pacs_core.storage.landing import LandingDirectory
from pacs_core.storage.tiers import open_tier
from pacs_core.storage.uncommitted import JournalReader

ORIGIN = Origin("CT1", "PACS", datetime(2024, 2, 29, tzinfo=UTC))


@dataclass
class FakeIndex:
    """An index in memory that keeps ports.IndexWriter and ports.IndexReader.locate, and can be made to fail."""

    rows: dict[str, InstanceRecord] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    attempts: int = 0
    is_down: bool = False
    poison: frozenset[str] = frozenset()

    def commit(self, records: Sequence[InstanceRecord]) -> CommitResult:
        self.attempts += 1
        if self.is_down:
            raise IndexUnavailable("PostgreSQL does not answer")
        if any(record.SOPInstanceUID in self.poison for record in records):
            raise DataSetMismatch("cannot be indexed")
        superseded, conflicting, inserted, repeated = [], [], 0, 0
        for record in records:
            held = self.rows.get(record.SOPInstanceUID)
            if held is None:
                inserted += 1
            elif held.path == record.path:
                repeated += 1
                continue
            elif not record.replaces:
                conflicting.append(record)
                continue
            else:
                superseded.append(held.object)
            self.rows[record.SOPInstanceUID] = record
        self.batches.append(len(records))
        return CommitResult(inserted, repeated, tuple(superseded), tuple(conflicting))

    def find(self, query: Query) -> Iterator[Header]:
        raise NotImplementedError

    def locate(self, query: Query) -> Sequence[StoredObject]:
        uid = query.keys["SOPInstanceUID"]
        assert isinstance(uid, str)
        return [self.rows[uid].object] if uid in self.rows else []


class Home:
    def __init__(self, root: Path, *, content_bytes: int = 0) -> None:
        self.root = root
        self.index = FakeIndex()
        self.landing = LandingDirectory(root / "hot")
        self.journal = SegmentJournal(root / "journal", content_bytes=content_bytes)

    def committer(self, *, tiers: Sequence[str] = ("hot",), interval: float = 0.01, rows: int = 100) -> Committer:
        stores = {tier: open_tier(str(self.root / tier)) for tier in tiers}
        return Committer(JournalReader(self.root / "journal"), self.index, self.index, stores, self.landing, interval=interval, rows=rows)

    @contextmanager
    def committing(self, *, interval: float = 0.01, rows: int = 100) -> Iterator[Committer]:
        committer = self.committer(interval=interval, rows=rows)
        committer.start()
        try:
            yield committer
        finally:
            assert committer.stop()

    def append(self, number: int, *, content: bytes = b"data", path: str = "", replaces: bool = False) -> InstanceRecord:
        """Journal an instance with its content, or, where the journal takes none, store its object first."""
        record, whole = self.made(number, content=content, path=path, replaces=replaces)
        if not self.journal.append(record, whole):
            self.store(record.path, whole)
            self.journal.append(record)
        return record

    def made(self, number: int, *, content: bytes = b"data", path: str = "", replaces: bool = False) -> tuple[InstanceRecord, bytes]:
        """The record and the object of an instance."""
        uid = UID(f"1.4.{number}")
        request = StoreRequest(UID("1.2.840.10008.5.1.4.1.1.2"), uid, UID("1.2.840.10008.1.2"), ORIGIN)
        whole = build_file_meta(request) + content
        record = InstanceRecord(
            uid,
            request.SOPClassUID,
            request.TransferSyntaxUID,
            UID("1.3"),
            UID("1.2"),
            {},
            "hot",
            path or f"1.2/1.3/{uid}.dcm",
            len(whole),
            hashlib.sha256(whole).hexdigest(),
            ORIGIN,
            replaces,
        )
        return record, whole

    def store(self, path: str, content: bytes) -> None:
        """Store an object, of which nobody is told."""
        incoming = self.landing.incoming()
        incoming.write(content)
        incoming.seal()
        self.landing.place(incoming, path, durable=False)
        incoming.discard()

    def objects(self) -> list[str]:
        return sorted(path for path, _ in open_tier(str(self.root / "hot")).list())

    def quarantined(self) -> list[Path]:
        return list((self.root / "hot/.quarantine").rglob("*.dcm"))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] = ord("X")
    path.unlink()
    path.write_bytes(content)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_what_was_acknowledged_is_in_the_index_after_waiting(home: Home) -> None:
    with home.committing():
        for number in range(20):
            home.append(number)
            wait_until_committed(home.journal, 10)
            assert f"1.4.{number}" in home.index.rows


def test_waiting_on_an_idle_archive_needs_no_committer(home: Home) -> None:
    wait_until_committed(home.journal, 0)


def test_waiting_for_what_nobody_commits_ends_as_unavailable(home: Home) -> None:
    home.append(1)
    with pytest.raises(IndexUnavailable):
        wait_until_committed(home.journal, 0.01)


def test_the_first_instance_after_a_pause_does_not_wait_for_the_interval(home: Home) -> None:
    with home.committing(interval=3600):
        home.append(1)
        wait_until_committed(home.journal, 10)


def test_stopping_commits_what_is_pending(home: Home) -> None:
    with home.committing(interval=3600):
        home.append(0)
        wait_until_committed(home.journal, 10)
        for number in range(1, 10):
            home.append(number)
    assert len(home.index.rows) == 10


def test_a_batch_has_at_most_the_configured_rows(home: Home) -> None:
    for number in range(25):
        home.append(number)
    with home.committing(rows=10):
        wait_until_committed(home.journal, 10)
    assert home.index.batches == [10, 10, 5]


def test_an_outage_of_the_index_loses_nothing(home: Home) -> None:
    home.index.is_down = True
    home.append(1)
    with home.committing():
        failed = threading.Event()
        while home.index.attempts < 2:
            failed.wait(0.005)
        home.index.is_down = False
        wait_until_committed(home.journal, 10)
    assert list(home.index.rows) == ["1.4.1"]


def test_stopping_during_an_outage_leaves_the_records_for_the_next_start(home: Home) -> None:
    home.index.is_down = True
    home.append(1)
    with home.committing():
        pass
    home.index.is_down = False
    with home.committing():
        wait_until_committed(home.journal, 10)
    assert list(home.index.rows) == ["1.4.1"]


def test_a_record_that_cannot_be_indexed_is_parked_and_blocks_nothing(home: Home) -> None:
    home.index.poison = frozenset({"1.4.3"})
    for number in range(10):
        home.append(number)
    with home.committing():
        wait_until_committed(home.journal, 10)
    assert sorted(home.index.rows) == [f"1.4.{number}" for number in range(10) if number != 3]
    [parked] = (home.root / "journal/parked").iterdir()
    assert "1.4.3" in parked.read_text()
    assert "1.2/1.3/1.4.3.dcm" in home.objects()


def test_a_repeated_batch_changes_nothing(home: Home) -> None:
    record = home.append(1)
    home.index.commit([record])  # and then the process was killed
    with home.committing():
        wait_until_committed(home.journal, 10)
    assert home.index.rows == {"1.4.1": record}
    assert home.objects() == [record.path]


def test_what_was_replaced_goes_into_quarantine(home: Home) -> None:
    home.append(1, replaces=True)
    second = home.append(1, content=b"other", path="1.2/1.3/1.4.1~aaaa.dcm", replaces=True)
    with home.committing():
        wait_until_committed(home.journal, 10)
    assert home.objects() == [second.path]
    [quarantined] = home.quarantined()
    assert quarantined.read_bytes().endswith(b"data")


def test_repeating_a_batch_of_replacements_keeps_the_last(home: Home) -> None:
    first = home.append(1, replaces=True)
    second = home.append(1, content=b"other", path="1.2/1.3/1.4.1~aaaa.dcm", replaces=True)
    home.index.commit([first, second])  # and then the process was killed
    with home.committing():
        wait_until_committed(home.journal, 10)
    assert home.index.rows == {"1.4.1": second}
    assert home.objects() == [second.path]


def test_a_copy_under_another_name_is_removed(home: Home) -> None:
    first = home.append(1, path="2024/02/28/1.4.1.dcm")
    home.append(1, path="2024/02/29/1.4.1.dcm")
    with home.committing():
        wait_until_committed(home.journal, 10)
    assert home.objects() == [first.path]
    assert home.quarantined() == []


def test_other_content_under_another_name_goes_into_quarantine(home: Home) -> None:
    first = home.append(1, path="2024/02/28/1.4.1.dcm")
    home.append(1, content=b"other", path="2024/02/29/1.4.1.dcm")
    with home.committing():
        wait_until_committed(home.journal, 10)
    assert home.objects() == [first.path]
    [quarantined] = home.quarantined()
    assert quarantined.read_bytes().endswith(b"other")


def test_an_arrival_takes_the_place_of_a_held_object_that_is_missing(home: Home) -> None:
    first = home.append(1, path="2024/02/28/1.4.1.dcm")
    with home.committing():
        wait_until_committed(home.journal, 10)
        (home.root / "hot" / first.path).unlink()
        second = home.append(1, path="2024/02/29/1.4.1.dcm")
        wait_until_committed(home.journal, 10)
    assert home.objects() == [second.path]
    assert home.index.rows["1.4.1"].path == second.path


def test_an_arrival_takes_the_place_of_a_held_object_that_is_damaged(home: Home) -> None:
    first = home.append(1, path="2024/02/28/1.4.1.dcm")
    with home.committing():
        wait_until_committed(home.journal, 10)
        damage(home.root / "hot" / first.path)
        second = home.append(1, path="2024/02/29/1.4.1.dcm")
        wait_until_committed(home.journal, 10)
    assert home.objects() == [second.path]
    assert home.index.rows["1.4.1"].path == second.path
    [quarantined] = home.quarantined()
    assert quarantined.read_bytes().endswith(b"daXa")


def test_an_arrival_that_is_damaged_itself_takes_no_place_and_is_parked(home: Home) -> None:
    first = home.append(1, path="2024/02/28/1.4.1.dcm")
    second = home.append(1, path="2024/02/29/1.4.1.dcm")
    damage(home.root / "hot" / second.path)
    with home.committing():
        wait_until_committed(home.journal, 10)
    assert home.index.rows["1.4.1"].path == first.path
    assert home.objects() == [first.path, second.path]
    assert len(list((home.root / "journal/parked").iterdir())) == 1


def test_a_conflict_waits_for_the_tier_of_the_held_object_and_is_parked_in_the_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first = home.append(1, path="2024/02/28/1.4.1.dcm")
    committer = home.committer()
    committer.commit_pending()
    home.index.rows["1.4.1"] = replace(first, tier="cold")
    second = home.append(1, path="2024/02/29/1.4.1.dcm")
    monkeypatch.setattr(indexing, "_SETTLE_ATTEMPTS", 3)
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            committer.commit_pending()
    assert committer.commit_pending() == 1
    assert committer.commit_pending() == 0
    [parked] = (home.root / "journal/parked").iterdir()
    assert second.path in parked.read_text()
    assert second.path in home.objects()


def test_an_arrival_takes_the_place_of_what_retention_removes_while_the_conflict_is_settled(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = home.append(1, path="2024/02/28/1.4.1.dcm")
    committer = home.committer()
    committer.commit_pending()
    second = home.append(1, path="2024/02/29/1.4.1.dcm")
    locate = home.index.locate

    def removed_meanwhile(query: Query) -> Sequence[StoredObject]:
        if home.index.rows.get(first.SOPInstanceUID) == first:
            del home.index.rows[first.SOPInstanceUID]
        return locate(query)

    monkeypatch.setattr(home.index, "locate", removed_meanwhile)
    with pytest.raises(StorageUnavailable):
        committer.commit_pending()
    assert committer.commit_pending() == 1
    assert home.index.rows[first.SOPInstanceUID] == second
    assert second.path in home.objects()


def test_what_was_replaced_on_another_tier_is_kept_aside_too(home: Home) -> None:
    first = home.append(1, content=b"first")
    home.committer().commit_pending()
    cold = home.root / "cold"
    (cold / first.path).parent.mkdir(parents=True)
    (home.root / "hot" / first.path).rename(cold / first.path)
    home.index.rows["1.4.1"] = replace(first, tier="cold")
    second = home.append(1, content=b"second", path="1.2/1.3/1.4.1~bbbb.dcm", replaces=True)
    home.committer(tiers=("hot", "cold")).commit_pending()
    assert home.objects() == [second.path]
    assert not (cold / first.path).exists()
    [quarantined] = home.quarantined()
    assert quarantined.read_bytes().endswith(b"first")


def test_another_committer_takes_over(home: Home) -> None:
    with home.committing() as first, home.committing():
        home.append(1)
        wait_until_committed(home.journal, 10)
        assert first.stop()
        home.append(2)
        wait_until_committed(home.journal, 10)
    assert len(home.index.rows) == 2


def test_a_record_that_supersedes_an_object_on_an_unknown_tier_does_no_harm(home: Home) -> None:
    first = home.append(1)
    home.index.rows["1.4.1"] = replace(first, tier="cold", path="elsewhere.dcm")
    home.append(1, path="1.2/1.3/1.4.1~bbbb.dcm", replaces=True)
    with home.committing():
        home.append(2)
        wait_until_committed(home.journal, 10)
    assert "1.4.2" in home.index.rows


def test_a_repeated_batch_does_not_remove_an_arrival_that_uses_the_name_of_what_was_replaced(home: Home) -> None:
    first = home.append(1, content=b"first")
    home.append(1, content=b"second", path="1.2/1.3/1.4.1~bbbb.dcm", replaces=True)
    home.committer().commit_pending()
    assert home.objects() == ["1.2/1.3/1.4.1~bbbb.dcm"]
    # The process died before it noted that the batch was done; meanwhile the instance was sent once more.
    again = home.append(1, content=b"third", replaces=True)
    assert again.path == first.path
    settlement = home.committer()._settlement
    settlement.settle([], CommitResult(0, 2, (first.object,), ()))
    assert again.path in home.objects()
