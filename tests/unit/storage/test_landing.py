import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pacs_core.errors import ObjectMissing, StorageFull, StorageUnavailable
from pacs_core.storage.landing import IN_MEMORY, INCOMING, QUARANTINE, IncomingObject, LandingDirectory


def sealed(store: LandingDirectory, content: bytes = b"content") -> IncomingObject:
    incoming = store.incoming()
    incoming.write(content)
    incoming.seal()
    return incoming


def read(incoming: IncomingObject) -> bytes:
    with incoming.open() as content:
        return content.read()


def left_over(root: Path) -> list[str]:
    return [path.name for path in (root / INCOMING).iterdir()]


def test_what_is_placed_is_what_was_written_and_read_only(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path / "hot")
    incoming = store.incoming()
    incoming.write(b"abc")
    incoming.write(memoryview(bytearray(b"def")))
    assert incoming.seal() == hashlib.sha256(b"abcdef").hexdigest()
    assert incoming.size == 6
    assert store.place(incoming, "1/2/3.dcm", durable=False).created
    placed = tmp_path / "hot/1/2/3.dcm"
    assert placed.read_bytes() == b"abcdef"
    assert placed.stat().st_mode & 0o777 == 0o440
    assert left_over(tmp_path / "hot") == []


def test_a_name_that_is_taken_stays_as_it_is(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    store.place(sealed(store, b"first"), "1/2/3.dcm", durable=False)
    second = sealed(store, b"second")
    assert not store.place(second, "1/2/3.dcm", durable=False).created
    assert (tmp_path / "1/2/3.dcm").read_bytes() == b"first"
    assert read(second) == b"second"
    second.discard()
    second.discard()
    assert left_over(tmp_path) == []


def test_of_many_threads_exactly_one_gets_a_name(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    files = [sealed(store, str(number).encode()) for number in range(8)]
    start = threading.Barrier(len(files))
    created: list[bool] = []

    def place(incoming: IncomingObject) -> None:
        start.wait()
        created.append(store.place(incoming, "a/b/c.dcm", durable=False).created)

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
        store.place(sealed(store), path, durable=False)


def test_a_directory_that_someone_removed_is_made_again(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    store.place(sealed(store), "1/2/3.dcm", durable=False)
    (tmp_path / "1/2/3.dcm").unlink()
    (tmp_path / "1/2").rmdir()
    assert store.place(sealed(store), "1/2/3.dcm", durable=False).created


def test_only_what_was_sealed_is_placed(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    incoming = store.incoming()
    with pytest.raises(StorageUnavailable):
        store.place(incoming, "1/2/3.dcm", durable=False)
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
    store.place(sealed(store, b"odd"), "1/2/3.dcm", durable=False)
    where = store.set_aside("1/2/3.dcm", reason="conflict")
    assert not (tmp_path / "1/2/3.dcm").exists()
    assert (tmp_path / where).read_bytes() == b"odd"
    with pytest.raises(ObjectMissing):
        store.set_aside("1/2/3.dcm", reason="again")


def test_a_large_arrival_goes_into_a_file_as_it_arrives(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    incoming = store.incoming()
    incoming.write(b"small")
    assert bytes(incoming.content or b"") == b"small"
    incoming.write(bytes(IN_MEMORY))
    assert incoming.content is None
    incoming.write(b"end")
    assert incoming.seal() == hashlib.sha256(b"small" + bytes(IN_MEMORY) + b"end").hexdigest()
    assert read(incoming) == b"small" + bytes(IN_MEMORY) + b"end"
    store.place(incoming, "1/2/3.dcm", durable=False)
    assert (tmp_path / "1/2/3.dcm").stat().st_size == incoming.size == IN_MEMORY + 8
    assert left_over(tmp_path) == []


def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path) -> None:
    store = LandingDirectory(small_disk / "hot")
    store.place(sealed(store, b"fits"), "1/2/3.dcm", durable=False)
    incoming = store.incoming()
    incoming.write(bytes(1 << 19))
    with pytest.raises(StorageFull):
        incoming.write(bytes(1 << 20))
    with pytest.raises(StorageUnavailable):
        incoming.seal()
    incoming.discard()
    too_large_to_be_named = sealed(store, bytes(IN_MEMORY))
    with pytest.raises(StorageFull):
        store.place(too_large_to_be_named, "1/2/4.dcm", durable=False)
    assert left_over(small_disk / "hot") == []
    assert store.place(sealed(store, b"fits again"), "1/2/4.dcm", durable=False).created


def test_a_read_only_disk_is_told(small_disk: Path) -> None:
    store = LandingDirectory(small_disk / "hot")
    store.place(sealed(store), "1/2/3.dcm", durable=False)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageUnavailable):
        store.place(sealed(store), "1/2/4.dcm", durable=False)


def fail_io(fd: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("content", [b"small", bytes(2 * IN_MEMORY)])
def test_what_could_not_be_synced_never_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    store = LandingDirectory(tmp_path)
    incoming = sealed(store, content)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail_io)
        with pytest.raises(StorageUnavailable):
            store.place(incoming, "1/2/3.dcm", durable=True)
    with pytest.raises(StorageUnavailable):
        store.place(incoming, "1/2/3.dcm", durable=True)
    assert not (tmp_path / "1/2/3.dcm").exists()
    assert store.place(sealed(store, content), "1/2/3.dcm", durable=True).created


def test_what_could_not_be_synced_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LandingDirectory(tmp_path)
    for name in ("1/2/3.dcm", "1/2/4.dcm"):
        store.place(sealed(store), name, durable=False)
    assert store.secure(["1/2/3.dcm", "1/2/gone.dcm", "1/2/4.dcm"]) == []
    monkeypatch.setattr(os, "fsync", fail_io)
    assert sorted(store.secure(["1/2/3.dcm", "1/2/4.dcm"])) == ["1/2/3.dcm", "1/2/4.dcm"]


def test_objects_whose_name_could_not_be_synced_are_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LandingDirectory(tmp_path)
    store.place(sealed(store), "1/2/3.dcm", durable=False)
    real = os.fsync

    def fail_directories(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            fail_io(fd)
        real(fd)

    monkeypatch.setattr(os, "fsync", fail_directories)
    assert store.secure(["1/2/3.dcm"]) == ["1/2/3.dcm"]


def test_what_could_not_be_synced_once_is_in_doubt_for_every_process_until_it_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = LandingDirectory(tmp_path), "1/2/3.dcm"
    store.place(sealed(store), path, durable=False)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail_io)
        assert store.secure([path]) == [path]
    assert store.secure([path]) == [path]
    assert LandingDirectory(tmp_path).secure([path, "1/2/other.dcm"]) == [path]
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail_io)
        with pytest.raises(StorageUnavailable):
            store.restore(path, b"content")
    assert store.secure([path]) == [path]
    store.restore(path, b"content")
    assert LandingDirectory(tmp_path).secure([path]) == []


def test_a_name_that_is_given_anew_is_in_doubt_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = LandingDirectory(tmp_path), "1/2/3.dcm"
    store.place(sealed(store), path, durable=False)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail_io)
        assert store.secure([path]) == [path]
    store.set_aside(path, reason="in doubt")
    assert store.place(sealed(store), path, durable=False).created
    assert store.secure([path]) == []


RESTORER = """
import os, sys
from pathlib import Path
from pacs_core.storage.landing import LandingDirectory
os.fsync = lambda fd: os._exit(9) if ".part" in os.readlink(f"/proc/self/fd/{fd}") else None
LandingDirectory(Path(sys.argv[1])).restore("1/2/3.dcm", b"new")
"""


def test_a_crash_while_an_object_is_written_anew_leaves_the_old_one_and_nothing_that_is_not_swept(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    store.place(sealed(store, b"old"), "1/2/3.dcm", durable=True)
    assert subprocess.run([sys.executable, "-c", RESTORER, tmp_path], check=False).returncode == 9
    assert [path.name for path in (tmp_path / "1/2").iterdir()] == ["3.dcm"]
    assert (tmp_path / "1/2/3.dcm").read_bytes() == b"old"
    assert store.sweep() == 1


@pytest.mark.parametrize("torn", [None, b"", b"torn"])
def test_an_object_is_written_anew_whatever_has_its_name(tmp_path: Path, torn: bytes | None) -> None:
    store = LandingDirectory(tmp_path)
    if torn is not None:
        store.place(sealed(store, torn), "1/2/3.dcm", durable=False)
    store.restore("1/2/3.dcm", b"whole")
    assert (tmp_path / "1/2/3.dcm").read_bytes() == b"whole"
    assert len(list((tmp_path / "1/2").iterdir())) == 1


WRITER = """
import sys
from pathlib import Path
from pacs_core.storage.landing import LandingDirectory
incoming = LandingDirectory(Path(sys.argv[1])).incoming()
incoming.write(bytes(2 << 20))
print("written", flush=True)
sys.stdin.read()
"""


def test_sweeping_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    mine = store.incoming()
    mine.write(bytes(2 * IN_MEMORY))
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        assert store.sweep() == 0
        writer.kill()
    assert store.sweep() == 1
    assert read(mine) == bytes(2 * IN_MEMORY)
    assert len(left_over(tmp_path)) == 1


def test_sweeping_a_store_that_was_never_used_finds_nothing(tmp_path: Path) -> None:
    assert LandingDirectory(tmp_path / "hot").sweep() == 0


def test_sweeping_goes_on_past_what_it_cannot_deal_with(tmp_path: Path) -> None:
    store = LandingDirectory(tmp_path)
    incoming = store.incoming()
    incoming.write(bytes(2 * IN_MEMORY))
    directory = tmp_path / INCOMING
    (directory / "0-link").symlink_to("/nowhere")
    os.mkfifo(directory / "0-pipe")
    (directory / "0-folder").mkdir()
    (directory / "9-left.part").write_bytes(b"left")
    assert store.sweep() == 1
    assert not (directory / "9-left.part").exists()
    assert read(incoming) == bytes(2 * IN_MEMORY)


def test_arrivals_leave_the_reserve_to_others(small_disk: Path) -> None:
    store = LandingDirectory(small_disk / "hot", reserve=512 << 20)  # of which a twentieth of the disk counts
    store.place(sealed(store, b"fits"), "1/2/3.dcm", durable=False)
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    with pytest.raises(StorageFull):
        store.incoming()
    (small_disk / "ballast").write_bytes(bytes(900_000))
    store.incoming().discard()
