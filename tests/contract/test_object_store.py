"""What every tier must do, whatever is behind its URL. A backend joins by one more entry in BACKENDS."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from pacs_core.errors import ConfigurationError, ObjectMissing, PacsError, StorageUnavailable
from pacs_core.ports import ObjectStore
from pacs_core.storage.tiers import open_tier


@dataclass
class Backend:
    """A store under test, and a way to put objects into it behind its back."""

    store: ObjectStore
    url: str

    def put(self, path: str, content: bytes) -> None:
        with fsspec.open(f"{self.url}/{path}", "wb", auto_mkdir=True) as file:
            file.write(content)


def _local(tmp_path: Path) -> str:
    return f"file://{tmp_path}/tier"


def _memory(tmp_path: Path) -> str:
    return f"memory://tier-{secrets.token_hex(8)}"


BACKENDS: dict[str, Callable[[Path], str]] = {"file": _local, "memory": _memory}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    url = BACKENDS[request.param](tmp_path)
    return Backend(open_tier(url), url)


def test_an_object_is_read_from_anywhere(backend: Backend) -> None:
    backend.put("1/2/3.dcm", b"0123456789")
    with backend.store.open("1/2/3.dcm") as file:
        assert file.read(4) == b"0123"
        assert file.seek(-2, 2) == 8
        assert file.read() == b"89"
        file.seek(2)
        assert file.read(3) == b"234"
        assert file.seekable()


def test_a_large_object_comes_back_whole(backend: Backend) -> None:
    content = secrets.token_bytes(3 << 20)
    backend.put("1/2/3.dcm", content)
    with backend.store.open("1/2/3.dcm") as file:
        assert file.read() == content


def test_what_is_not_there_is_missing(backend: Backend) -> None:
    assert not backend.store.exists("1/2/3.dcm")
    with pytest.raises(ObjectMissing):
        backend.store.open("1/2/3.dcm")


def test_a_folder_is_no_object(backend: Backend) -> None:
    backend.put("1/2/3.dcm", b"x")
    assert not backend.store.exists("1/2")


def test_deleting_is_idempotent(backend: Backend) -> None:
    backend.put("1/2/3.dcm", b"x")
    backend.put("1/2/4.dcm", b"y")
    assert backend.store.exists("1/2/3.dcm")
    backend.store.delete("1/2/3.dcm")
    backend.store.delete("1/2/3.dcm")
    assert not backend.store.exists("1/2/3.dcm")
    assert backend.store.exists("1/2/4.dcm")


def test_listing_leaves_temporary_and_quarantined_files_out(backend: Backend) -> None:
    for path in (
        "1/2/3.dcm",
        "1/2/4.dcm",
        "2024/01/01/5.dcm",
        ".incoming/6.part",
        ".quarantine/2024-01-01/7.dcm",
        "1/.hidden/8.dcm",
        "1/.9",
    ):
        backend.put(path, path.encode())
    assert sorted(backend.store.list()) == [("1/2/3.dcm", 9), ("1/2/4.dcm", 9), ("2024/01/01/5.dcm", 16)]


def test_a_listing_is_never_stale(backend: Backend) -> None:
    backend.put("1/2/3.dcm", b"x")
    assert len(list(backend.store.list())) == 1
    backend.put("1/2/4.dcm", b"x")
    assert len(list(backend.store.list())) == 2


def test_an_empty_tier_lists_nothing(backend: Backend) -> None:
    assert list(backend.store.list()) == []


def test_only_local_tiers_have_local_paths(backend: Backend) -> None:
    backend.put("1/2/3.dcm", b"content")
    path = backend.store.local_path("1/2/3.dcm")
    if backend.url.startswith("file://"):
        assert path is not None
        assert path.read_bytes() == b"content"
    else:
        assert path is None


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "", ".incoming/x"])
def test_a_path_out_of_the_tier_is_refused(backend: Backend, path: str) -> None:
    for use in (backend.store.open, backend.store.exists, backend.store.local_path):
        with pytest.raises(PacsError):
            use(path)


def test_a_path_without_a_scheme_is_local(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")
    assert list(open_tier(str(tmp_path)).list()) == [("a.dcm", 1)]


def test_a_local_tier_whose_directory_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "tier").write_bytes(b"not a directory")
    with pytest.raises(StorageUnavailable):
        open_tier(str(tmp_path / "tier")).open("1.dcm")


def test_an_unknown_kind_of_tier_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        open_tier("nosuch://somewhere")
