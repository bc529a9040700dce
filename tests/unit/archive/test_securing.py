"""What a crash of the machine can leave of objects that were never synced, played through on real files."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_core.archive.securing import Securer
from pacs_core.errors import StorageUnavailable
from pacs_core.model import InstanceRecord
from pacs_core.storage.uncommitted import JournalReader
from pacs_core.storage.writing import PREALLOCATED_BYTES
from tests.support.waiting import eventually
from tests.unit.archive.test_indexing import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, content_bytes=PREALLOCATED_BYTES)
    eventually(lambda: home.journal.append(home.store(0), b"x"), what="a preallocated segment")
    reader = JournalReader(tmp_path / "journal")
    mark = home.journal.mark()
    reader.done(mark)
    reader.secured(mark)
    return home


def securer(home: Home) -> Securer:
    return Securer(JournalReader(home.root / "journal"), home.landing, home.index)


def path_of(home: Home, record: InstanceRecord) -> Path:
    return home.landing.local_path(record.path)


def tear(path: Path) -> None:
    path.chmod(0o640)
    os.truncate(path, 10)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o640)
    path.write_bytes(content)


@pytest.mark.parametrize("lose", [Path.unlink, tear, flip])
@pytest.mark.parametrize("indexed", [False, True])
def test_an_object_that_a_crash_has_lost_is_written_anew(home: Home, lose: Callable[[Path], None], indexed: bool) -> None:
    record = home.append(1, content=b"precious")
    content = path_of(home, record).read_bytes()
    if indexed:
        home.committer().commit_pending()
    lose(path_of(home, record))
    assert securer(home).recover() == frozenset()
    assert path_of(home, record).read_bytes() == content


def test_an_object_that_was_moved_or_deleted_since_stays_away(home: Home) -> None:
    record = home.append(1)
    home.committer().commit_pending()
    del home.index.rows[record.SOPInstanceUID]
    path_of(home, record).unlink()
    assert securer(home).recover() == frozenset()
    assert not path_of(home, record).exists()


def test_of_two_arrivals_under_one_name_the_last_one_has_it(home: Home) -> None:
    first = home.append(1, content=b"damaged later")
    path_of(home, first).unlink()
    second = home.append(1, content=b"took its place")
    content = path_of(home, second).read_bytes()
    assert securer(home).recover() == frozenset()
    assert path_of(home, second).read_bytes() == content


def test_what_is_nowhere_intact_is_parked_and_not_indexed(home: Home) -> None:
    """As a crash leaves it that comes while the frame is being synced: nobody was told that it is stored."""
    record = home.append(1, content=b"x" * 9000)
    path_of(home, record).unlink()
    [segment] = (home.root / "journal").glob("*.journal")
    content = segment.read_bytes()
    segment.write_bytes(content.replace(b"x" * 5000, b"y" * 5000))
    intact = home.append(2)
    committer = home.committer()
    committer.commit_pending()
    assert list(home.index.rows) == [intact.SOPInstanceUID]
    assert len(list((home.root / "journal/parked").iterdir())) == 1


def test_what_is_synced_is_forgotten_by_the_journal(home: Home) -> None:
    home.append(1)
    assert securer(home).step() == 1
    assert JournalReader(home.root / "journal").unsecured(10)[0] == []
    assert securer(home).step() == 0


def test_what_the_medium_did_not_take_is_written_anew(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    record = home.append(1)
    inode, failures, real = path_of(home, record).stat().st_ino, [True], os.fsync

    def fail_once(fd: int) -> None:
        if failures and os.fstat(fd).st_ino == inode:
            failures.pop()
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", fail_once)
    content = path_of(home, record).read_bytes()
    securer(home).step()
    assert path_of(home, record).read_bytes() == content
    assert path_of(home, record).stat().st_ino != inode


def test_while_the_medium_takes_nothing_the_journal_keeps_everything(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.append(1)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(StorageUnavailable):
            securer(home).step()
    assert len(JournalReader(home.root / "journal").unsecured(10)[0]) == 1
    with securer(home):
        pass
    assert JournalReader(home.root / "journal").unsecured(10)[0] == []
