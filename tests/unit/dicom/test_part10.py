from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.dicom.part10 import mapped, same_data_set
from pacs_core.model import UID, Origin, StoreRequest

REQUEST = StoreRequest(UID("1.2.3"), UID("1.2.4"), UID("1.2.840.10008.1.2"), Origin("A", "B", datetime(2024, 1, 1, tzinfo=UTC)))


def is_same(tmp_path: Path, one: tuple[StoreRequest, bytes], other: tuple[StoreRequest, bytes]) -> bool:
    paths = tmp_path / "one", tmp_path / "other"
    for path, (request, data) in zip(paths, (one, other), strict=True):
        path.write_bytes(build_file_meta(request) + data)
    with paths[0].open("rb") as first, paths[1].open("rb") as second:
        return same_data_set(first, second)


def test_the_origin_does_not_matter(tmp_path: Path) -> None:
    later = replace(REQUEST, origin=Origin("LONGER", "B", datetime(2025, 1, 1, tzinfo=UTC)))
    assert is_same(tmp_path, (REQUEST, bytes(3 << 20)), (later, bytes(3 << 20)))


def test_data_sets_of_other_bytes_length_or_syntax_differ(tmp_path: Path) -> None:
    assert not is_same(tmp_path, (REQUEST, b"a" * 100), (REQUEST, b"a" * 99 + b"b"))
    assert not is_same(tmp_path, (REQUEST, b"a" * 100), (REQUEST, b"a" * 99))
    assert not is_same(tmp_path, (REQUEST, b"a"), (replace(REQUEST, TransferSyntaxUID=UID("1.2.840.10008.1.2.1")), b"a"))


def test_a_file_is_mapped_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"content"):
        path.write_bytes(content)
        with path.open("rb") as file, mapped(file) as view:
            assert bytes(view) == content
