"""Data sets of stored files, found and read without being parsed, and never wrong to their end."""

import hashlib
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pacs_core.archive.stored import Hashed, StoredDataSet, open_data_set
from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.errors import ChecksumMismatch, ObjectMissing, PacsError, StorageUnavailable, UnreadableDataSet
from pacs_core.model import UID, Origin, StoreRequest

CT, IMPLICIT = UID("1.2.840.10008.5.1.4.1.1.2"), UID("1.2.840.10008.1.2")
DATA = b"\x08\x00\x18\x00\x08\x00\x00\x001.2.3.45" + bytes(range(256))
META = build_file_meta(StoreRequest(CT, UID("1.2.3"), IMPLICIT, Origin("A", "B", datetime(2024, 5, 6, tzinfo=UTC))))
LONG_ELEMENT = b"\x02\x00\x02\x01OB\0\0" + (9000).to_bytes(4, "little") + bytes(9000)
LARGE = META + DATA + bytes(3 << 20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "object.dcm"
    path.write_bytes(META + DATA)
    return path


def _descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("before", [META, META + LONG_ELEMENT, META[132:], b""], ids=["meta", "long meta", "no preamble", "no meta"])
def test_the_data_set_is_what_stands_behind_the_file_meta(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "object.dcm"
    path.write_bytes(before + DATA)
    with open_data_set(path) as source:
        content = bytearray(source.size)
        source.read_into([memoryview(content)], 0)
    assert content == DATA


def test_it_is_read_from_any_position_into_several_places(file: Path) -> None:
    with open_data_set(file) as source:
        first, second = bytearray(3), bytearray(5)
        source.read_into([memoryview(first), memoryview(second)], 10)
    assert first + second == DATA[10:18]


def test_a_file_that_becomes_shorter_cannot_be_read_to_its_end(file: Path) -> None:
    with open_data_set(file) as source:
        os.truncate(file, len(META) + 10)
        with pytest.raises(OSError, match="shorter"):
            source.read_into([memoryview(bytearray(source.size))], 0)


@pytest.mark.parametrize(
    ("content", "size", "error"),
    [
        pytest.param(None, None, ObjectMissing, id="no file"),
        pytest.param(META, None, UnreadableDataSet, id="no data set"),
        pytest.param(META[:200], None, UnreadableDataSet, id="half a meta group"),
        pytest.param(META + DATA[:-2], len(META + DATA), ChecksumMismatch, id="cut short"),
        pytest.param(META + DATA + b"\0\0", len(META + DATA), ChecksumMismatch, id="longer than what was stored"),
    ],
)
def test_what_cannot_be_sent_says_why_and_leaves_nothing_open(
    tmp_path: Path, content: bytes | None, size: int | None, error: type[PacsError]
) -> None:
    path = tmp_path / "object.dcm"
    if content is not None:
        path.write_bytes(content)
    before = _descriptors()
    with pytest.raises(error):
        open_data_set(path, size=size)
    assert _descriptors() == before


def test_a_directory_in_its_place_is_unavailable_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        open_data_set(tmp_path)


def test_a_small_object_with_other_bytes_is_not_opened(file: Path) -> None:
    stored = hashlib.sha256(file.read_bytes()).hexdigest()
    with open_data_set(file, sha256=stored) as source:
        content = bytearray(source.size)
        source.read_into([memoryview(content)[:7], memoryview(content)[7:]], 0)
    assert content == DATA
    _flip(file, len(META) + 100)
    before = _descriptors()
    with pytest.raises(ChecksumMismatch):
        open_data_set(file, sha256=stored)
    assert _descriptors() == before


@pytest.mark.parametrize("block", [1 << 20, 700_000, 5 << 20])
def test_a_large_object_with_other_bytes_is_never_given_out_to_its_end(tmp_path: Path, block: int) -> None:
    path = tmp_path / "large.dcm"
    path.write_bytes(LARGE)
    stored, told = hashlib.sha256(LARGE).hexdigest(), list[bool]()
    with open_data_set(path, sha256=stored) as source:
        source.check()
        assert _read(source, block) == LARGE[len(META) :]
    _flip(path, 500)
    with open_data_set(path, sha256=stored, damaged=lambda: told.append(True)) as source:
        with pytest.raises(ChecksumMismatch):
            _read(source, block)
        with pytest.raises(ChecksumMismatch):
            source.check()
    assert told == [True, True]


def test_whoever_asks_for_the_end_first_gets_it_only_if_all_is_right(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    path.write_bytes(LARGE)
    end = memoryview(bytearray(10))
    with open_data_set(path, sha256=hashlib.sha256(LARGE).hexdigest()) as source:
        source.read_into([end], source.size - 10)
        assert _read(source, 1 << 20) == LARGE[len(META) :]
    with open_data_set(path, sha256="0" * 64) as source, pytest.raises(ChecksumMismatch):
        source.read_into([end], source.size - 10)


@pytest.mark.parametrize("size", [0, 3 << 20])
def test_a_file_that_was_hashed_is_vouched_for_until_it_is_touched_or_time_is_up(tmp_path: Path, size: int) -> None:
    path, now = tmp_path / "object.dcm", [time.time() + 10]
    path.write_bytes(META + DATA + bytes(size))
    stored, hashed = hashlib.sha256(path.read_bytes()).hexdigest(), Hashed(seconds=60, now=lambda: now[0])

    def is_hashed() -> bool:
        with open_data_set(path, sha256=stored, hashed=hashed) as source:
            _read(source, 1 << 20)
            return type(source) is not StoredDataSet

    assert [is_hashed(), is_hashed()] == [True, False]
    now[0] += 61
    assert [is_hashed(), is_hashed()] == [True, False]
    _flip(path, 500)
    with pytest.raises(ChecksumMismatch):
        is_hashed()


def test_a_file_that_changed_a_moment_ago_is_not_vouched_for(file: Path) -> None:
    hashed, stored = Hashed(), hashlib.sha256(file.read_bytes()).hexdigest()
    open_data_set(file, sha256=stored, hashed=hashed).close()
    assert not hashed.vouches(stored, file.stat())


def test_an_open_data_set_has_a_location_even_after_its_file_was_removed(file: Path) -> None:
    with open_data_set(file) as source:
        file.unlink()
        assert source.location.read_bytes() == META + DATA


def _read(source: StoredDataSet, block: int) -> bytes:
    content = memoryview(bytearray(source.size))
    for position in range(0, source.size, block):
        source.read_into([content[position : position + block]], position)
    return bytes(content)


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
