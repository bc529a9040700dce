import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pacs_core.errors import ObjectMissing, StorageFull, StorageUnavailable
from pacs_core.storage.landing import INCOMING, QUARANTINE, IncomingFile, LandingDirectory


def sealed(store: LandingDirectory, content: bytes = b"content") -> IncomingFile:
    incoming = store.incoming()
    incoming.write(content)
    incoming.seal()
    return incoming


def left_over(root: Path) -> list[str]:
    return [path.name for path in (root / INCOMING).iterdir()]


def test_what_is_placed_is_what_was_written_and_read_only(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path / "hot")
    incoming = store.incoming()
    incoming.write(b"abc")
    incoming.write(memoryview(bytearray(b"def")))
    assert incoming.seal() == hashlib.sha256(b"abcdef").hexdigest()
    assert incoming.size == 6
    assert store.place(incoming, "1/2/3.dcm").created
    placed = tmp_path / "hot/1/2/3.dcm"
    assert placed.read_bytes() == b"abcdef"
    assert placed.stat().st_mode & 0o777 == 0o440
    assert left_over(tmp_path / "hot") == []


def test_a_name_that_is_taken_stays_as_it_is(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    store.place(sealed(store, b"first"), "1/2/3.dcm")
    second = sealed(store, b"second")
    assert not store.place(second, "1/2/3.dcm").created
    assert (tmp_path / "1/2/3.dcm").read_bytes() == b"first"
    assert second.path.read_bytes() == b"second"
    second.discard()
    second.discard()
    assert left_over(tmp_path) == []


def test_of_many_threads_exactly_one_gets_a_name(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    files = [sealed(store, str(number).encode()) for number in range(8)]
    start = threading.Barrier(len(files))
    created: list[bool] = []

    def place(incoming: IncomingFile) -> None:
        start.wait()
        created.append(store.place(incoming, "a/b/c.dcm").created)

    threads = [threading.Thread(target=place, args=(incoming,)) for incoming in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 7 + [True]


@pytest.mark.parametrize("path", ["../x.dcm", "/x.dcm", ".incoming/x.dcm", "a/../../x.dcm"])
def test_a_path_out_of_the_tier_is_refused(tmp_path: Path, path: str) -> None:
    store = LandingDirectory(tmp_path / "hot")
    with pytest.raises(ObjectMissing):
        store.place(sealed(store), path)


def test_a_directory_that_someone_removed_is_made_again(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    store.place(sealed(store), "1/2/3.dcm")
    (tmp_path / "1/2/3.dcm").unlink()
    (tmp_path / "1/2").rmdir()
    assert store.place(sealed(store), "1/2/3.dcm").created


def test_only_what_was_sealed_is_placed(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    incoming = store.incoming()
    with pytest.raises(StorageUnavailable):
        store.place(incoming, "1/2/3.dcm")
    incoming.seal()
    with pytest.raises(StorageUnavailable):
        incoming.write(b"more")


def test_quarantine_keeps_the_bytes_and_the_reason(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    where = tmp_path / store.quarantine(sealed(store, b"odd"), reason="other content")
    assert where.is_relative_to(tmp_path / QUARANTINE)
    assert where.read_bytes() == b"odd"
    assert json.loads(where.with_suffix(".json").read_text())["reason"] == "other content"
    assert left_over(tmp_path) == []


def test_a_placed_object_can_be_set_aside(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    store.place(sealed(store, b"odd"), "1/2/3.dcm")
    where = store.set_aside("1/2/3.dcm", reason="conflict")
    assert not (tmp_path / "1/2/3.dcm").exists()
    assert (tmp_path / where).read_bytes() == b"odd"
    with pytest.raises(ObjectMissing):
        store.set_aside("1/2/3.dcm", reason="again")


def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path) -> None:
    store = LandingDirectory(small_disk / "hot")
    store.place(sealed(store, b"fits"), "1/2/3.dcm")
    incoming = store.incoming()
    incoming.write(bytes(1 << 19))
    with pytest.raises(StorageFull):
        incoming.write(bytes(1 << 20))
    with pytest.raises(StorageUnavailable):
        incoming.seal()
    incoming.discard()
    assert left_over(small_disk / "hot") == []
    assert store.place(sealed(store, b"fits again"), "1/2/4.dcm").created


def test_a_read_only_disk_is_told(small_disk: Path) -> None:
    store = LandingDirectory(small_disk / "hot")
    store.place(sealed(store), "1/2/3.dcm")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageUnavailable):
        store.incoming()


def test_a_failed_sync_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LandingDirectory(tmp_path)
    incoming = store.incoming()
    incoming.write(b"content")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        with pytest.raises(StorageUnavailable):
            incoming.seal()
    with pytest.raises(StorageUnavailable):
        incoming.seal()


WRITER = """
import sys
from pathlib import Path
from pacs_core.storage.landing import LandingDirectory
incoming = LandingDirectory(Path(sys.argv[1])).incoming()
incoming.write(b"half")
print("written", flush=True)
sys.stdin.read()
"""


def test_sweeping_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    mine = store.incoming()
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        assert store.sweep() == 0
        writer.kill()
    assert store.sweep() == 1
    assert mine.path.exists()
    assert len(left_over(tmp_path)) == 1


def test_sweeping_a_store_that_was_never_used_finds_nothing(tmp_path: Path) -> None:
    assert LandingDirectory(tmp_path / "hot").sweep() == 0


def test_sweeping_goes_on_past_what_it_cannot_deal_with(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    incoming = store.incoming()
    directory = tmp_path / INCOMING
    (directory / "0-link").symlink_to("/nowhere")
    os.mkfifo(directory / "0-pipe")
    (directory / "0-folder").mkdir()
    (directory / "9-left.part").write_bytes(b"left")
    assert store.sweep() == 1
    assert not (directory / "9-left.part").exists()
    assert incoming.path.exists()


def test_arrivals_leave_the_reserve_to_others(small_disk: Path) -> None:
    store = LandingDirectory(small_disk / "hot", reserve=512 << 20)  # of which a twentieth of the disk counts
    store.place(sealed(store, b"fits"), "1/2/3.dcm")
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    with pytest.raises(StorageFull):
        store.incoming()
    (small_disk / "ballast").write_bytes(bytes(900_000))
    store.incoming().discard()
