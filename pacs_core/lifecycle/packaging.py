"""One file for a study: a zip or tar with its objects under the names they have in the archive, and a manifest of their checksums.

The manifest, `manifest.json`, is the last member. Objects are stored as they are: pixel data compresses badly, and whoever has the
file reads it with any tool.
"""

import hashlib
import json
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO

from pacs_core.errors import ChecksumMismatch, ObjectMissing, StorageUnavailable
from pacs_core.model import UID, StoredObject
from pacs_core.ports import ObjectStore

MANIFEST = "manifest.json"
_BLOCK = 1 << 20


class Form(StrEnum):
    """How a study is archived."""

    OBJECTS = "objects"  # each under its own name
    ZIP = "zip"
    TAR = "tar"


@dataclass(frozen=True, slots=True)
class Member:
    """An object of a package, as its manifest lists it."""

    name: str
    SOPInstanceUID: str
    size: int
    sha256: str


# Opens an object of the archive as a local file.
Open = Callable[[StoredObject], AbstractContextManager[Path]]


def write_package(target: Path, form: Form, objects: Sequence[StoredObject], opened: Open, *, study: UID, run: str, at: datetime) -> None:
    """Write a package. ChecksumMismatch, with a package that is good for nothing, if an object has other bytes than were stored."""
    members = [Member(each.path, each.SOPInstanceUID, each.size, each.sha256) for each in objects]
    manifest = {
        "format": 1,
        "StudyInstanceUID": study,
        "made_by_run": run,
        "made_at": at.isoformat(),
        "instances": [{name: getattr(member, name) for name in Member.__slots__} for member in members],
    }
    with _writing(target, form) as add:
        for each in objects:
            with opened(each) as file:
                _check(each.path, _digest_of(file), each.sha256)
                add(each.path, file)
        listed = target.with_suffix(".manifest")
        listed.write_text(json.dumps(manifest, indent=2))
        add(MANIFEST, listed)
        listed.unlink()


def check_package(package: Path, form: Form, expected: Iterable[StoredObject]) -> None:
    """Read a package whole. ChecksumMismatch, ObjectMissing if it does not have every object with its bytes; StorageUnavailable."""
    with _translated():
        digests = dict(_digests(package, form))
    for each in expected:
        if each.path not in digests:
            raise ObjectMissing(f"the package lacks {each.path}")
        _check(each.path, digests[each.path], each.sha256)


def extract(package: Path, form: Form, wanted: Mapping[str, str], folder: Path) -> Iterator[tuple[str, Path]]:
    """Members by name and SHA-256, each as a file of its own until the next is asked for.

    ChecksumMismatch, after all others, if there are some that the package lacks or has damaged.
    """
    found: set[str] = set()
    target = folder / "member"
    with _translated():
        for name, content in _members(package, form):
            if name in wanted and _is_extracted(content, target, wanted[name]):
                found.add(name)
                yield name, target
    if missing := wanted.keys() - found:
        raise ChecksumMismatch(f"the package lacks {min(missing)}, or has it damaged")


@contextmanager
def local_package(store: ObjectStore, path: str, scratch: Path) -> Iterator[Path]:
    """A package as a local file for as long as the context lasts. Errors as ObjectStore.open."""
    local = store.local_path(path)
    if local is not None:
        yield local
        return
    with scratch_folder(scratch) as folder:
        copy = folder / "package"
        with store.open(path) as content, copy.open("wb") as file:
            shutil.copyfileobj(content, file, _BLOCK)
        yield copy


@contextmanager
def scratch_folder(scratch: Path) -> Iterator[Path]:
    """A new folder that is removed in the end."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        yield Path(name)


def form_of(path: str) -> Form:
    """The form of a package, by its name."""
    return Form(path.rpartition(".")[2])


@contextmanager
def _writing(target: Path, form: Form) -> Iterator[Callable[[str, Path], None]]:
    if form is Form.ZIP:
        with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED, allowZip64=True) as archive:
            yield lambda name, file: archive.write(file, name)
    else:
        with tarfile.open(target, "x", format=tarfile.PAX_FORMAT) as tar:
            yield lambda name, file: tar.add(file, name, recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the user that wrote it: a package says what it holds, not where it was made."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _members(package: Path, form: Form) -> Iterator[tuple[str, IO[bytes]]]:
    if form is Form.ZIP:
        with zipfile.ZipFile(package) as archive:
            for name in archive.namelist():
                with archive.open(name) as content:
                    yield name, content
    else:
        with tarfile.open(package, "r:") as tar:
            for member in tar:
                extracted = tar.extractfile(member)
                if extracted is not None:
                    with extracted:
                        yield member.name, extracted


@contextmanager
def _translated() -> Iterator[None]:
    """What a damaged package does to whoever reads it, or its members."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as exc:
        raise ChecksumMismatch(f"the package cannot be read: {exc}") from exc
    except FileNotFoundError as exc:
        raise ObjectMissing("the package is not where it was stored") from exc
    except OSError as exc:
        raise StorageUnavailable(f"the package cannot be read: {exc.strerror}") from exc


def _digests(package: Path, form: Form) -> Iterator[tuple[str, str]]:
    for name, content in _members(package, form):
        digest = hashlib.sha256()
        while block := content.read(_BLOCK):
            digest.update(block)
        yield name, digest.hexdigest()


def _is_extracted(content: IO[bytes], target: Path, sha256: str) -> bool:
    """Whether a member is now a file, with its bytes."""
    try:
        with target.open("wb") as file:
            shutil.copyfileobj(content, file, _BLOCK)
    except zipfile.BadZipFile:  # its own checksum says so
        return False
    return _digest_of(target) == sha256


def _digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _check(name: str, digest: str, expected: str) -> None:
    if digest != expected:
        raise ChecksumMismatch(f"{name} does not hash to what was stored")
