import errno
import os
from pathlib import Path

import pytest

from pacs_core.errors import StorageFull, StorageUnavailable
from pacs_core.storage.files import abandoned, create_locked, make_directories, translated, write_atomically


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageUnavailable), (errno.EROFS, StorageUnavailable)],
)
def test_errors_of_the_operating_system_are_translated(code: int, expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught, translated("testing"):
        raise OSError(code, os.strerror(code))
    assert type(caught.value) is expected
    assert isinstance(caught.value.__cause__, OSError)


def test_a_file_is_abandoned_when_its_writer_lets_go(tmp_path: Path) -> None:
    path, fd = create_locked(tmp_path, suffix=".x", flags=os.O_WRONLY, mode=0o640)
    with abandoned(path) as is_abandoned:
        assert not is_abandoned
    os.close(fd)
    with abandoned(path) as is_abandoned:
        assert is_abandoned
    with abandoned(tmp_path / "absent") as is_abandoned:
        assert not is_abandoned


def test_an_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"a long first content")
    write_atomically(path, b"short")
    assert path.read_bytes() == b"short"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_failed_atomic_write_leaves_the_old_content_alone(small_disk: Path) -> None:
    path = small_disk / "state"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, bytes(2 << 20))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in small_disk.iterdir()] == ["state"]


def test_directories_are_made_down_to_the_last(tmp_path: Path) -> None:
    make_directories(tmp_path / "a/b/c")
    make_directories(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
