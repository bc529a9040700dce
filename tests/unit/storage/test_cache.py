"""Local copies of remote objects: never half, never more than allowed, never taken from under a reader."""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from pacs_core.errors import ChecksumMismatch, StorageFull, StorageUnavailable
from pacs_core.storage.cache import ObjectCache
from pacs_core.storage.files import create_locked

SIZE = 10_000
WITHIN = 30.0


def content(number: int) -> bytes:
    return (b"%08d" % number) * (SIZE // 8)


def digest(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


def writing(number: int) -> Callable[[Path], None]:
    def fetch(target: Path) -> None:
        with target.open("xb") as file:
            file.write(content(number))

    return fetch


def never(target: Path) -> None:
    raise AssertionError("it is held")


def read(cache: ObjectCache, number: int, fetch: Callable[[Path], None] | None = None) -> bool:
    """Whether it was fetched; its bytes are right."""
    descriptor, is_fresh = cache.open(digest(number), SIZE, fetch or writing(number))
    try:
        assert os.pread(descriptor, SIZE + 1, 0) == content(number)
    finally:
        os.close(descriptor)
    return is_fresh


def kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_an_object_is_fetched_once_and_then_held(tmp_path: Path) -> None:
    assert read(ObjectCache(tmp_path / "c", limit=1 << 20), 1) is True
    assert read(ObjectCache(tmp_path / "c", limit=1 << 20), 1, never) is False


def test_what_was_unused_for_longest_goes_first(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=10 * SIZE)
    for number in range(10):
        read(cache, number)
        os.utime(cache._file(digest(number)), (number, number))
    read(cache, 0)  # used now
    read(cache, 10)
    assert [number for number in range(11) if cache._file(digest(number)).exists()] == [0, *range(3, 11)]
    assert kept(tmp_path) == 9 * SIZE


def test_a_reader_keeps_what_is_removed(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=2 * SIZE)
    descriptor, _ = cache.open(digest(0), SIZE, writing(0))
    os.utime(descriptor, (0, 0))
    for number in range(1, 5):
        read(cache, number)
    assert not cache._file(digest(0)).exists()
    assert os.pread(descriptor, SIZE, 0) == content(0)
    os.close(descriptor)


@pytest.mark.parametrize("limit", [0, SIZE - 1])
def test_what_may_not_be_kept_is_served_all_the_same(tmp_path: Path, limit: int) -> None:
    cache = ObjectCache(tmp_path, limit=limit)
    assert (read(cache, 1), read(cache, 1)) == (True, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nothing_is_kept_on_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=4, f_blocks=100, f_frsize=1 << 20))
    assert read(ObjectCache(tmp_path, limit=1 << 20), 1)
    assert kept(tmp_path) == 0


def test_a_full_disk_is_emptied_of_what_is_cached_and_only_then_said_to_be_full(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=1 << 20)
    read(cache, 0)
    tries: list[int] = []

    def full_at_first(target: Path) -> None:
        tries.append(kept(tmp_path))
        if kept(tmp_path):
            target.write_bytes(b"half")
            raise StorageFull("no space")
        writing(1)(target)

    assert read(cache, 1, full_at_first)
    assert tries == [SIZE, 0]

    def always_full(target: Path) -> None:
        raise StorageFull("no space")

    with pytest.raises(StorageFull):
        read(cache, 2, always_full)
    assert list((tmp_path / ".fetching").iterdir()) == []


def test_a_fetch_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=1 << 20)

    def fails(target: Path) -> None:
        target.write_bytes(b"half")
        raise StorageUnavailable("away")

    with pytest.raises(StorageUnavailable):
        read(cache, 1, fails)

    def cut_short(target: Path) -> None:
        target.write_bytes(b"short")

    with pytest.raises(ChecksumMismatch):
        read(cache, 1, cut_short)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert read(cache, 1)


def test_a_file_of_another_length_is_fetched_again(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=1 << 20)
    read(cache, 1)
    os.truncate(cache._file(digest(1)), 17)
    assert (read(cache, 1), read(cache, 1)) == (True, False)


def test_what_was_discarded_is_fetched_again(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=1 << 20)
    read(cache, 1)
    cache.discard(digest(1))
    cache.discard(digest(1))
    assert read(cache, 1)


def test_what_dead_processes_left_is_removed_and_what_live_ones_write_is_not(tmp_path: Path) -> None:
    fetching = tmp_path / ".fetching"
    fetching.mkdir()
    for name in ("dead.lock", "dead.part"):
        (fetching / name).write_bytes(b"half")
    lock, descriptor = create_locked(fetching, suffix=".lock", flags=os.O_RDWR, mode=0o640)
    lock.with_suffix(".part").write_bytes(b"half")
    read(ObjectCache(tmp_path, limit=1 << 20), 1)
    assert sorted(path.name for path in fetching.iterdir()) == sorted([lock.name, lock.with_suffix(".part").name])
    os.close(descriptor)


def test_half_an_object_of_a_dead_process_does_not_get_in_the_way(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=1 << 20)
    read(cache, 0)
    for suffix in (".lock", ".part"):
        (tmp_path / ".fetching" / (digest(1) + suffix)).write_bytes(b"half")
    assert read(cache, 1)


def test_a_count_that_was_lost_is_taken_anew(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=3 * SIZE)
    for number in range(3):
        read(cache, number)
    (tmp_path / ".used").unlink()
    for number in range(3, 8):
        read(cache, number)
        assert kept(tmp_path) <= 3 * SIZE


def test_threads_that_want_the_same_object_fetch_it_once(tmp_path: Path) -> None:
    cache, fetched = ObjectCache(tmp_path, limit=1 << 20), list[int]()
    others_came = threading.Barrier(8)

    def fetch(target: Path) -> None:
        fetched.append(1)
        writing(1)(target)

    def want(_: int) -> bool:
        others_came.wait(WITHIN)
        return read(cache, 1, fetch)

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(want, range(8))) == 1
    assert fetched == [1]


def test_whoever_waits_too_long_for_another_fetches_it_too(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=1 << 20, patience=0)

    def fetch(target: Path) -> None:
        assert read(cache, 1)
        writing(1)(target)

    assert read(cache, 1, fetch)
    assert kept(tmp_path) == SIZE


def _work(folder: Path, seed: int) -> None:
    cache = ObjectCache(folder, limit=20 * SIZE)
    for step in range(150):
        read(cache, (step * (seed + 3)) % 60)
        with cache._counting():  # else objects come and go while they are counted
            assert kept(folder) <= 20 * SIZE


def test_the_bound_holds_across_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(tmp_path, seed)) for seed in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert 0 < kept(tmp_path) <= 20 * SIZE
    assert list((tmp_path / ".fetching").iterdir()) == []
