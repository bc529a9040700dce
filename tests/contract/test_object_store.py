"""What every tier must do, whatever is behind its URL, over HTTP where that is how it is reached. A backend joins by one entry in BACKENDS.

PACS_TEST_S3_ENDPOINT and the AWS_… of the environment put a real S3 in the place of the one that is started.
"""

import errno
import hashlib
import multiprocessing
import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import fsspec
import pytest
from obstore.exceptions import GenericError
from obstore.store import S3Store

from pacs_core.errors import ChecksumMismatch, ConfigurationError, ObjectArchived, ObjectMissing, PacsError, StorageFull, StorageUnavailable
from pacs_core.model import Availability
from pacs_core.storage import s3 as s3_module
from pacs_core.storage import s3_sender, transfers
from pacs_core.storage.options import TierOptions
from pacs_core.storage.tiers import Tier, open_tier
from tests.support.clouds import Azurite, DurableS3Server, S3Server, Server, new_bucket
from tests.support.proxy import Corrupting

S = TypeVar("S", bound=Server)

MEBI = 1 << 20
REAL_S3 = os.environ.get("PACS_TEST_S3_ENDPOINT", "")  # read before the fixture that hides PACS_… from the tests

OPTIONS = TierOptions(timeout=30, multipart_threshold=6 * MEBI, part_size=5 * MEBI)


@dataclass
class Backend:
    """A store under test, and a way to put objects into it behind its back."""

    store: Tier
    url: str
    options: TierOptions
    directory: Path

    def put(self, path: str, content: bytes) -> None:
        if self.url.startswith(("file:", "memory:")):
            with fsspec.open(f"{self.url}/{path}", "wb", auto_mkdir=True) as file:
                file.write(content)
        else:  # also under names that a tier would not give
            source = self.file(content)
            with source.open("rb") as file:
                sent = transfers.Source(file, sha256=digest(content), progress=None)
                self.store._objects.put(f"{self.store._root}/{path}", sent)

    def file(self, content: bytes) -> Path:
        """A local file."""
        path = self.directory / f"{secrets.token_hex(8)}.source"
        path.write_bytes(content)
        return path

    def store_content(self, path: str, content: bytes) -> None:
        self.store.put(path, self.file(content), sha256=digest(content))

    def fetched(self, path: str, content: bytes) -> bytes:
        """What comes back, and that it hashes to what was stored."""
        target = self.directory / f"{secrets.token_hex(8)}.target"
        self.store.fetch(path, target, sha256=digest(content))
        return target.read_bytes()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _served(S3Server(tmp_path_factory.mktemp("s3")))


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    yield from _served(Azurite(tmp_path_factory.mktemp("azurite")))


def _served(server: S) -> Iterator[S]:
    server.start()
    yield server
    server.stop()


def _local(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    return f"file://{tmp_path}/tier", ""


def _memory(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    return f"memory://tier-{secrets.token_hex(8)}", ""


def _s3(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    if REAL_S3:
        return new_bucket(REAL_S3, os.environ), REAL_S3
    return _cloud(request, "s3")


def _azure(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    return _cloud(request, "azurite")


def _cloud(request: pytest.FixtureRequest, name: str) -> tuple[str, str]:
    server = request.getfixturevalue(name)
    for variable, value in server.environment.items():
        request.getfixturevalue("monkeypatch").setenv(variable, value)
    return server.bucket(), server.endpoint


BACKENDS: dict[str, Callable[[pytest.FixtureRequest, Path], tuple[str, str]]] = {
    "file": _local,
    "memory": _memory,
    "s3": _s3,
    "azure": _azure,
}
clouds = pytest.mark.parametrize("backend", ["s3", "azure"], indirect=True)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    url, endpoint = BACKENDS[request.param](request, tmp_path)
    options = replace(OPTIONS, endpoint=endpoint)
    return Backend(open_tier(url, options), url, options, tmp_path)


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


@pytest.mark.parametrize("size", [0, 1, 33_000, 3 * MEBI, 13 * MEBI])
def test_what_is_put_comes_back(backend: Backend, size: int) -> None:
    content = secrets.token_bytes(size)
    backend.store_content("1/2/3.dcm", content)
    assert backend.fetched("1/2/3.dcm", content) == content
    with backend.store.open("1/2/3.dcm") as file:
        assert file.read() == content
    assert list(backend.store.list()) == [("1/2/3.dcm", size)]


def test_what_is_put_again_is_overwritten(backend: Backend) -> None:
    for content in (b"older", secrets.token_bytes(13 * MEBI), b"newer"):
        backend.store_content("1/2/3.dcm", content)
        assert backend.fetched("1/2/3.dcm", content) == content


@pytest.mark.parametrize("size", [33_000, 13 * MEBI])
def test_a_source_with_other_bytes_is_not_stored(backend: Backend, size: int) -> None:
    backend.store_content("1/2/3.dcm", b"older")
    for path in ("1/2/3.dcm", "1/2/4.dcm"):
        with pytest.raises(ChecksumMismatch):
            backend.store.put(path, backend.file(bytes(size)), sha256=digest(b"announced"))
    assert list(backend.store.list()) == [("1/2/3.dcm", 5)]
    assert backend.fetched("1/2/3.dcm", b"older") == b"older"


@pytest.mark.parametrize("size", [100, 13 * MEBI])
def test_what_comes_back_with_other_bytes_leaves_no_file(backend: Backend, size: int) -> None:
    backend.store_content("1/2/3.dcm", bytes(size))
    target = backend.directory / "target"
    with pytest.raises(ChecksumMismatch):
        backend.store.fetch("1/2/3.dcm", target, sha256=digest(b"indexed"))
    with pytest.raises(ObjectMissing):
        backend.store.fetch("1/2/4.dcm", target, sha256=digest(b"indexed"))
    assert not target.exists()


def test_a_file_that_is_there_is_not_fetched_over(backend: Backend) -> None:
    backend.store_content("1/2/3.dcm", b"content")
    target = backend.file(b"mine")
    with pytest.raises(StorageUnavailable):
        backend.store.fetch("1/2/3.dcm", target, sha256=digest(b"content"))
    assert target.read_bytes() == b"mine"


def test_a_full_disk_is_told(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    backend.store_content("1/2/3.dcm", b"content")
    monkeypatch.setattr(transfers, "write_all", full)
    target = backend.directory / "target"
    with pytest.raises(StorageFull):
        backend.store.fetch("1/2/3.dcm", target, sha256=digest(b"content"))
    assert not target.exists()


@pytest.mark.parametrize("size", [33_000, 13 * MEBI])
def test_progress_sums_to_the_size(backend: Backend, size: int) -> None:
    content = bytes(size)
    sent: list[int] = []
    fetched: list[int] = []
    backend.store.put("1/2/3.dcm", backend.file(content), sha256=digest(content), progress=sent.append)
    backend.store.fetch("1/2/3.dcm", backend.directory / "target", sha256=digest(content), progress=fetched.append)
    assert sum(sent) == sum(fetched) == size


def test_a_large_object_is_read_at_any_place(backend: Backend) -> None:
    content = secrets.token_bytes(13 * MEBI)
    backend.store_content("1/2/3.dcm", content)
    with backend.store.open("1/2/3.dcm") as file:
        for position in (12 * MEBI, 5, 3 * MEBI - 7, 13 * MEBI - 1):
            file.seek(position)
            assert file.read(1000) == content[position : position + 1000]


def test_threads_share_a_store(backend: Backend) -> None:
    contents = {f"1/{number}/3.dcm": secrets.token_bytes(1000 + number) for number in range(100)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(backend.store_content, contents, contents.values()))
        assert list(pool.map(backend.fetched, contents, contents.values())) == list(contents.values())


def test_large_objects_from_several_threads(backend: Backend) -> None:
    content = secrets.token_bytes(13 * MEBI)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: backend.store_content(f"1/{number}.dcm", content), range(3)))
        assert all(found == content for found in pool.map(lambda number: backend.fetched(f"1/{number}.dcm", content), range(3)))


@pytest.mark.parametrize("backend", ["file", "s3", "azure"], indirect=True)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # that is what is tested
def test_a_forked_process_uses_the_store_too(backend: Backend) -> None:
    backend.store_content("1/2/3.dcm", b"content")
    child = multiprocessing.get_context("fork").Process(target=backend.store_content, args=("1/2/4.dcm", b"of the child"))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert backend.fetched("1/2/4.dcm", b"of the child") == b"of the child"


def test_a_listing_begins_with_its_prefix(backend: Backend) -> None:
    for path in ("1/2/3.dcm", "1/22/3.dcm", "1/3/3.dcm", "12/3.dcm"):
        backend.store_content(path, b"x")
    assert sorted(path for path, _ in backend.store.list("1/2")) == ["1/2/3.dcm", "1/22/3.dcm"]
    assert [path for path, _ in backend.store.list("1/2/")] == ["1/2/3.dcm"]
    assert list(backend.store.list("7/")) == list(backend.store.list("../")) == list(backend.store.list("1/.")) == []


@pytest.mark.timeout(300)
def test_a_listing_of_many_objects_is_whole(backend: Backend) -> None:
    source = backend.file(b"x")
    wanted = {f"1/{number:04}.dcm" for number in range(1100)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: backend.store.put(path, source, sha256=digest(b"x")), wanted))
    assert {path for path, _ in backend.store.list("1/")} == wanted


def test_what_is_not_archived_is_online(backend: Backend) -> None:
    backend.store_content("1/2/3.dcm", b"content")
    assert backend.store.availability("1/2/3.dcm") is Availability.ONLINE
    backend.store.rehydrate("1/2/3.dcm")
    assert backend.fetched("1/2/3.dcm", b"content") == b"content"
    for use in (backend.store.availability, backend.store.rehydrate):
        with pytest.raises(ObjectMissing):
            use("1/2/4.dcm")


@pytest.mark.parametrize(
    ("backend", "choice"),
    [("s3", {"storage_class": "GLACIER"}), ("s3", {"storage_class": "DEEP_ARCHIVE"}), ("azure", {"access_tier": "Archive"})],
    indirect=["backend"],
)
@pytest.mark.parametrize("size", [1000, 13 * MEBI])
@pytest.mark.skipif(bool(REAL_S3), reason="a real S3 takes hours to rehydrate")
def test_an_archived_object_is_read_once_it_is_rehydrated(backend: Backend, choice: dict[str, str], size: int) -> None:
    content = bytes(size)
    backend.store = open_tier(backend.url, replace(backend.options, **choice))  # type: ignore[arg-type]  # they are all text
    backend.store_content("1/2/3.dcm", content)
    assert backend.store.exists("1/2/3.dcm")
    assert backend.store.availability("1/2/3.dcm") is Availability.ARCHIVED
    with pytest.raises(ObjectArchived):
        backend.store.open("1/2/3.dcm")
    with pytest.raises(ObjectArchived):
        backend.fetched("1/2/3.dcm", content)
    backend.store.rehydrate("1/2/3.dcm")
    backend.store.rehydrate("1/2/3.dcm")
    assert backend.store.availability("1/2/3.dcm") is Availability.ONLINE
    assert backend.fetched("1/2/3.dcm", content) == content


@clouds
@pytest.mark.parametrize("size", [33_000, 13 * MEBI])
def test_a_server_that_has_other_bytes_than_were_sent_is_found_out(backend: Backend, size: int) -> None:
    # The proxy stands for whatever changes bytes between our buffers and the provider's disk.
    marker = b"these bytes are changed on their way"
    content = marker + secrets.token_bytes(size)
    with Corrupting(backend.options.endpoint, marker) as endpoint:
        store = open_tier(backend.url, replace(backend.options, endpoint=endpoint))
        with pytest.raises(StorageUnavailable):
            store.put("1/2/3.dcm", backend.file(content), sha256=digest(content))


@pytest.mark.parametrize("backend", ["file", "memory"], indirect=True)
def test_a_medium_that_has_other_bytes_than_were_written_is_found_out(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is read of the source is hashed as it is; what is written of it is not. Stands for a bad disk.
    read = transfers.Source.read
    monkeypatch.setattr(transfers.Source, "read", lambda source, size=-1: bytes(len(read(source, size))))
    with pytest.raises(StorageUnavailable):
        backend.store_content("1/2/3.dcm", b"content")
    monkeypatch.undo()
    assert not backend.store.exists("1/2/3.dcm")


@pytest.mark.parametrize("backend", ["s3"], indirect=True)
@pytest.mark.parametrize("prefix", ["a b", "a%20b", "ä+ö", "a=b&c?d#e", "*:'()!~", ".x", ".", "a/../b", "/x", "x//y"])
def test_whoever_sends_to_s3_names_the_object_the_same(backend: Backend, prefix: str) -> None:
    store = open_tier(f"{backend.url}/{prefix}", backend.options)
    store.put("1/2/3.dcm", backend.file(b"content"), sha256=digest(b"content"))
    with store.open("1/2/3.dcm") as file:  # by s3fs
        assert file.read() == b"content"
    assert list(store.list()) == [("1/2/3.dcm", 7)]


@pytest.mark.parametrize("backend", ["s3"], indirect=True)
@pytest.mark.parametrize("options", [{}, {"storage_class": "STANDARD_IA", "server_side_encryption": "AES256"}])
def test_s3_objects_are_sent_directly(backend: Backend, options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(s3_module.Bucket, "put")
    store = open_tier(backend.url, replace(backend.options, **options))  # type: ignore[arg-type]  # they are all text
    store.put("1/2/3.dcm", backend.file(b"content"), sha256=digest(b"content"))
    with store.open("1/2/3.dcm") as file:
        assert file.read() == b"content"


@pytest.mark.parametrize("backend", ["s3"], indirect=True)
def test_s3_objects_are_sent_with_the_credentials_of_the_tier(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    credential = s3_sender.Sender._credential

    def spied(sender: s3_sender.Sender) -> object:
        found = credential(sender)
        used.append(found["access_key_id"])
        return found

    monkeypatch.setattr(s3_sender.Sender, "_credential", spied)
    store = open_tier(backend.url, replace(backend.options, filesystem={"key": "other", "secret": "words"}))
    store.put("1/2/3.dcm", backend.file(b"content"), sha256=digest(b"content"))
    assert used == ["other"]


@pytest.mark.parametrize("backend", ["s3"], indirect=True)
def test_what_is_not_sent_directly_is_sent_by_the_client(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fail(_: object, name: str, *args: object, **kwargs: object) -> None:
        tried.append(name)
        raise GenericError("refused")

    monkeypatch.setattr(S3Store, "put", fail)
    for number in range(5):
        backend.store_content(f"1/2/{number}.dcm", b"content")
        assert backend.fetched(f"1/2/{number}.dcm", b"content") == b"content"
    assert len(tried) == 3  # then it rests


@clouds
def test_a_missing_bucket_is_no_missing_object(backend: Backend) -> None:
    store = open_tier(backend.url.replace("tier-", "gone-"), backend.options)
    for use in (store.open, store.exists, store.delete, store.availability, lambda path: list(store.list(path))):
        with pytest.raises(StorageUnavailable, match="no such"):
            use("1/2/3.dcm")
    with pytest.raises(StorageUnavailable, match="no such"):
        store.put("1/2/3.dcm", backend.file(b"x"), sha256=digest(b"x"))


@pytest.fixture(params=[DurableS3Server, Azurite])
def mortal(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the test's own, which it may kill; it has its objects on disk."""
    server: Server = request.param(tmp_path / "server")
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def test_a_store_outlives_its_server(mortal: S3Server | Azurite, tmp_path: Path) -> None:
    url = mortal.bucket()
    options = replace(OPTIONS, endpoint=mortal.endpoint, timeout=5)
    backend = Backend(open_tier(url, options), url, options, tmp_path)
    large = secrets.token_bytes(13 * MEBI)
    backend.store_content("1/2/3.dcm", b"before")
    backend.store_content("1/2/4.dcm", large)
    mortal.stop() if isinstance(mortal, Azurite) else mortal.kill()  # Azurite would forget
    began = time.monotonic()
    for content in (b"x", large):
        with pytest.raises(StorageUnavailable):
            backend.store_content("1/2/5.dcm", content)
    with pytest.raises(StorageUnavailable):
        backend.store.open("1/2/3.dcm")
    assert time.monotonic() - began < 60  # that is, it does not hang
    mortal.start()
    assert backend.fetched("1/2/3.dcm", b"before") == b"before"
    assert backend.fetched("1/2/4.dcm", large) == large
    backend.store_content("1/2/5.dcm", b"after")
    assert backend.fetched("1/2/5.dcm", b"after") == b"after"


def test_a_store_is_unavailable_without_credentials(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3.environment:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageUnavailable, match="credentials"):
        open_tier("s3://bucket", replace(OPTIONS, endpoint=s3.endpoint)).exists("1.dcm")


def test_what_a_dead_writer_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "tier" / ".incoming" / "left.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    backend = Backend(open_tier(str(tmp_path / "tier")), "", OPTIONS, tmp_path)
    backend.store_content("1.dcm", b"x")
    assert list(left.parent.iterdir()) == []
