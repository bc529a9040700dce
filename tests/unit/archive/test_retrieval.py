"""Data sets of stored files, found and read without being parsed."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pacs_core.archive.retrieval import Retrieval, open_data_set
from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.errors import ChecksumMismatch, ObjectMissing, PacsError, StorageUnavailable, UnreadableDataSet
from pacs_core.model import UID, Origin, StoredObject, StoreRequest
from pacs_core.storage.tiers import open_tier

CT, IMPLICIT = UID("1.2.840.10008.5.1.4.1.1.2"), UID("1.2.840.10008.1.2")
DATA = b"\x08\x00\x18\x00\x08\x00\x00\x001.2.3.45" + bytes(range(256))
META = build_file_meta(StoreRequest(CT, UID("1.2.3"), IMPLICIT, Origin("A", "B", datetime(2024, 5, 6, tzinfo=UTC))))
LONG_ELEMENT = b"\x02\x00\x02\x01OB\0\0" + (9000).to_bytes(4, "little") + bytes(9000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "object.dcm"
    path.write_bytes(META + DATA)
    return path


def _descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def stored(path: str, *, tier: str = "hot", size: int = len(META + DATA)) -> StoredObject:
    return StoredObject(UID("1.2.3"), CT, IMPLICIT, UID("1.2"), UID("1.1"), tier, path, size, "")


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


def test_an_object_of_a_local_tier_is_opened_there(file: Path) -> None:
    with Retrieval({"hot": open_tier(str(file.parent))}).open(stored(file.name)) as source:
        assert (source.path, source.size) == (file, len(DATA))


def test_an_object_that_is_not_as_long_as_it_was_is_not_opened(file: Path) -> None:
    with pytest.raises(ChecksumMismatch):
        Retrieval({"hot": open_tier(str(file.parent))}).open(stored(file.name, size=1))


@pytest.mark.parametrize(("tier", "reason"), [("cold", "not configured"), ("warm", "remote")])
def test_an_object_on_a_tier_without_local_files_is_unavailable(tier: str, reason: str) -> None:
    with pytest.raises(StorageUnavailable, match=reason):
        Retrieval({"warm": open_tier("memory://x")}).open(stored("1.1/1.2/1.2.3.dcm", tier=tier))
