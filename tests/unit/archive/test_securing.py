"""What a crash can leave of objects that were never synced, played through on real files."""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pacs_core.archive.indexing import Committer
from pacs_core.archive.securing import Securer
from pacs_core.errors import StorageUnavailable
from pacs_core.model import InstanceRecord
from pacs_core.ports import Incoming, Placement
from pacs_core.storage import writing
from pacs_core.storage.layout import replacement_path
from pacs_core.storage.uncommitted import JournalReader
from tests.support.waiting import eventually
from tests.unit.archive.test_indexing import Home


class PooledHome(Home):
    """A home whose journal takes content."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, content_bytes=writing.PREALLOCATED_BYTES)
        eventually(lambda: self.journal.append(*self.made(0)), what="a preallocated segment")
        self.committer().commit_pending()
        self.securer().step()

    def securer(self) -> Securer:
        return Securer(JournalReader(self.root / "journal"), self.landing, self.index, patience=0)

    def object_of(self, number: int) -> Path:
        return self.root / f"hot/1.2/1.3/1.4.{number}.dcm"

    def committed(self, number: int, **options: bytes) -> InstanceRecord:
        record = self.append(number, **options)  # type: ignore[arg-type]  # of which only the content is given
        self.committer().commit_pending()
        return record


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PooledHome:
    monkeypatch.setattr(writing, "PREALLOCATED_BYTES", 2 << 20)
    return PooledHome(tmp_path)


def tear(path: Path) -> None:
    path.chmod(0o640)
    os.truncate(path, 10)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o640)
    path.write_bytes(content)


def test_a_journalled_instance_is_not_seen_before_it_is_committed(home: PooledHome) -> None:
    record = home.append(1, content=b"precious")
    assert not home.object_of(1).exists()
    home.committer().commit_pending()
    assert home.object_of(1).read_bytes().endswith(b"precious")
    assert home.index.rows[record.SOPInstanceUID] == record


@pytest.mark.parametrize("lose", [Path.unlink, tear, flip])
def test_an_object_that_a_crash_has_lost_is_written_anew(home: PooledHome, lose: Callable[[Path], None]) -> None:
    home.committed(1, content=b"precious")
    content = home.object_of(1).read_bytes()
    lose(home.object_of(1))
    home.securer().recover()
    assert home.object_of(1).read_bytes() == content


@pytest.mark.parametrize("left", [b"", b"torn", b"\0" * 400])
def test_what_a_crash_has_left_under_a_name_gives_way_to_what_is_journalled(home: PooledHome, left: bytes) -> None:
    home.append(1, content=b"precious")
    home.store("1.2/1.3/1.4.1.dcm", left)
    home.committer().commit_pending()
    assert home.object_of(1).read_bytes().endswith(b"precious")
    assert [path.read_bytes() for path in home.quarantined()] == [left]


def test_a_batch_that_was_placed_before_a_crash_is_placed_again_without_effect(home: PooledHome) -> None:
    record = home.append(1, content=b"precious")
    home.index.is_down = True
    with pytest.raises(Exception, match="PostgreSQL"):
        home.committer().commit_pending()
    assert home.object_of(1).exists()
    home.index.is_down = False
    home.committer().commit_pending()
    assert home.index.rows[record.SOPInstanceUID] == record
    assert home.quarantined() == []


def test_an_object_that_was_moved_or_deleted_since_stays_away(home: PooledHome) -> None:
    record = home.committed(1)
    del home.index.rows[record.SOPInstanceUID]
    home.object_of(1).unlink()
    home.securer().recover()
    assert not home.object_of(1).exists()


def test_what_is_not_intact_in_the_journal_is_parked_and_not_indexed(home: PooledHome) -> None:
    """As a crash leaves it that comes while the frame is being synced: nobody was told that it is stored."""
    home.append(1, content=b"x" * 9000)
    [segment] = (home.root / "journal").glob("*.journal")
    content = segment.read_bytes()
    segment.write_bytes(content.replace(b"x" * 5000, b"y" * 5000))
    intact = home.append(2)
    home.committer().commit_pending()
    assert sorted(home.index.rows) == ["1.4.0", intact.SOPInstanceUID]
    assert not home.object_of(1).exists()
    assert len(list((home.root / "journal/parked").iterdir())) == 1


def test_what_is_synced_is_forgotten_by_the_journal(home: PooledHome) -> None:
    home.append(1)
    assert home.securer().step() == 0  # it is not even named
    home.committer().commit_pending()
    assert home.securer().step() == 1
    assert home.securer().step() == 0


def test_what_the_medium_did_not_take_is_written_anew(home: PooledHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home.committed(1)
    inode, failures, real = home.object_of(1).stat().st_ino, [True], os.fsync

    def fail_once(fd: int) -> None:
        if failures and os.fstat(fd).st_ino == inode:
            failures.pop()
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", fail_once)
    content = home.object_of(1).read_bytes()
    home.securer().step()
    assert home.object_of(1).read_bytes() == content
    assert home.object_of(1).stat().st_ino != inode


def test_while_the_medium_takes_nothing_the_journal_keeps_everything(home: PooledHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home.committed(1)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(StorageUnavailable):
            home.securer().step()
    assert len(JournalReader(home.root / "journal").unsecured(10)[0]) == 1
    with home.securer():
        pass
    assert JournalReader(home.root / "journal").unsecured(10)[0] == []


def test_a_committer_secures_what_it_has_committed_before_it_ends(home: PooledHome) -> None:
    committer: Committer = home.committer()
    committer.start()
    record = home.append(1)
    eventually(lambda: record.SOPInstanceUID in home.index.rows)
    assert committer.stop()
    assert JournalReader(home.root / "journal").unsecured(10)[0] == []


def test_what_a_dead_writer_has_left_is_swept_while_the_committer_lives(home: PooledHome) -> None:
    left = home.root / "hot/.incoming/left.part"
    committer = home.committer()
    committer.start()
    home.append(1)
    eventually(lambda: "1.4.1" in home.index.rows)
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"half of an instance")
    home.append(2)
    eventually(lambda: not left.exists(), what="the file to be swept")
    assert committer.stop()


def test_a_replacement_that_a_crash_has_torn_is_placed_again(home: PooledHome) -> None:
    home.append(1)
    newer = home.append(1, content=b"newer data", replaces=True)
    path = replacement_path(newer.path, newer.sha256)
    home.store(path, b"what the disk had of it")
    home.committer().commit_pending()
    held = home.index.rows[newer.SOPInstanceUID]
    assert (held.path, held.sha256) == (path, newer.sha256)
    assert hashlib.sha256((home.root / "hot" / path).read_bytes()).hexdigest() == newer.sha256
    assert not (home.root / "journal/parked").exists()


def test_a_replacement_that_was_placed_before_a_crash_keeps_its_name(home: PooledHome) -> None:
    newer, whole = home.made(1, content=b"newer data", replaces=True)
    path = replacement_path(newer.path, newer.sha256)
    home.store(path, whole)
    home.journal.append(newer, whole)
    home.committer().commit_pending()
    assert home.index.rows[newer.SOPInstanceUID].path == path
    assert newer.path not in home.objects()


def test_what_cannot_be_placed_holds_up_nothing_before_it(home: PooledHome, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [home.append(1), home.append(2)]
    unreadable = home.append(3)
    place, placed = home.landing.place, Counter[str]()

    def failing(incoming: Incoming, path: str, *, durable: bool) -> Placement:
        placed[path] += 1
        if path == unreadable.path:
            raise StorageUnavailable("the medium does not answer")
        return place(incoming, path, durable=durable)

    monkeypatch.setattr(home.landing, "place", failing)
    committer = home.committer()
    for _ in range(5):
        with suppress(StorageUnavailable):
            committer.commit_pending()
    assert {record.SOPInstanceUID for record in before} <= home.index.rows.keys()
    assert unreadable.SOPInstanceUID not in home.index.rows
    # Once before it was known that something fails, and once after: what is set aside must not be set aside each time.
    assert [placed[record.path] for record in before] == [2, 2]
    monkeypatch.undo()
    while committer.commit_pending():
        pass
    assert unreadable.SOPInstanceUID in home.index.rows
