"""Importing what lies on disks and media: folders, zip files, DICOMDIR media, single files. Resumable.

Each instance takes the same durable way in as one from the network. What was done is remembered in a log, so that the
same import after an interruption goes on where it was; a file that has changed since is read again.
"""

import hashlib
import json
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self, cast

from pydicom.uid import MediaStorageDirectoryStorage

from pacs_core.archive.ingest import Ingest
from pacs_core.archive.placing import Fate
from pacs_core.dicom.file_meta import LARGEST_META, PREFIX, FileMeta, read_file_meta
from pacs_core.dicom.part10 import mapped
from pacs_core.dicom.scan import ScanResult, scan
from pacs_core.dicom.sop_classes import is_storable
from pacs_core.errors import DataSetMismatch, RequestError, UnreadableDataSet
from pacs_core.model import UID, Origin, StoreRequest
from pacs_core.storage.files import translated

_BLOCK = 1 << 20
_IN_MEMORY = 64 << 20  # bytes; a larger source is copied to disk while it is read
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
MEMBER_LIMIT = 16 << 30

# What zipfile raises for archives and members that are broken, encrypted or compressed in a way that it does not know.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError, OSError)


class Verdict(StrEnum):
    """What became of a file."""

    STORED = "stored"
    ALREADY_HELD = "already held"
    KEPT_FIRST = "kept first"  # held with other content; this one went into quarantine
    DONE_BEFORE = "done before"  # by an earlier run of the same import
    DIRECTORY = "directory"  # a DICOMDIR: it describes instances and is none
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Imported:
    """The outcome for one file; `source` and `reason` are printable whatever the file is called."""

    source: str
    verdict: Verdict
    reason: str = ""
    SOPInstanceUID: str = ""


@dataclass(frozen=True, slots=True)
class _Source:
    """A file, or a member of a zip file, and what tells whether it has changed."""

    name: str
    size: int
    modified: int

    @property
    def key(self) -> str:
        return json.dumps([self.name, self.size, self.modified])


class ImportLog:
    """What one import has done, by the paths it was given. A context manager; one process at a time."""

    def __init__(self, directory: Path, paths: Sequence[Path]) -> None:
        names = b"\0".join(os.fsencode(path.absolute()) for path in paths)
        self._path = directory / f"{hashlib.sha256(names).hexdigest()[:32]}.log"
        self._done: set[str] = set()
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        with translated("opening the log of the import"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                # A line that a crash cut short matches nothing, so its file is read again: harmless.
                self._done = set(self._path.read_text("ascii", "replace").split("\n"))
            self._file = self._path.open("a", encoding="ascii", buffering=1)
            self._file.write("\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def __contains__(self, source: _Source) -> bool:
        return source.key in self._done

    def add(self, source: _Source) -> None:
        """Remember that a source needs no further look. Not synced: forgetting it costs time, no data."""
        assert self._file is not None
        with translated("writing the log of the import"):
            self._file.write(source.key + "\n")


class Importer:
    """Imports files.

    Args:
        ingest: the durable way in.
        state: the directory for logs of imports and for members of zip files while they are read.
        ae_title: the archive's own, for the record of where instances came from.
        private: also accept SOP classes that the Standard does not define.
        member_limit: bytes to which a member of a zip file may expand.
    """

    def __init__(self, ingest: Ingest, state: Path, *, ae_title: str, private: bool, member_limit: int = MEMBER_LIMIT) -> None:
        self._ingest = ingest
        self._state = state
        self._ae_title = ae_title
        self._private = private
        self._member_limit = member_limit

    def run(self, paths: Sequence[Path]) -> Iterator[Imported]:
        """Import everything below the paths; yields one outcome a file, as it happens.

        What is wrong with a file is its outcome. UnavailableError is raised, because it would be true of every file
        that follows; running the same import again continues.
        """
        with ImportLog(self._state, paths) as done:
            for path in paths:
                for file in _files(path):
                    yield from self._file(file, done)

    def _file(self, path: Path, done: ImportLog) -> Iterator[Imported]:
        name = printable(path)
        if path.name == "DICOMDIR":
            yield Imported(name, Verdict.DIRECTORY)
            return
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                source = _Source(os.fspath(path.absolute()), status.st_size, status.st_mtime_ns)
                if source in done:
                    yield Imported(name, Verdict.DONE_BEFORE)
                elif file.read(4) in _ZIP_MAGIC:
                    yield from self._zip(file, source, done)
                else:
                    with self._loaded(file, status.st_size) as content:
                        outcome = self._one(content, name, source, done)
                    yield outcome
        except OSError as exc:
            yield Imported(name, Verdict.REFUSED, f"cannot be read: {exc.strerror}")

    def _zip(self, file: BinaryIO, archive: _Source, done: ImportLog) -> Iterator[Imported]:
        """The members of a zip file. None is extracted by its name, so its name cannot do harm."""
        try:
            members = zipfile.ZipFile(file)
        except _ZIP_ERRORS as exc:
            yield Imported(printable(archive.name), Verdict.REFUSED, f"not a readable zip file: {exc}")
            return
        with members:
            for member in members.infolist():
                if not member.is_dir():
                    yield self._member(members, member, archive, done)

    def _member(self, members: zipfile.ZipFile, member: zipfile.ZipInfo, archive: _Source, done: ImportLog) -> Imported:
        source = _Source(f"{archive.name}!{member.filename}", member.CRC, archive.modified)
        name = printable(source.name)
        if source in done:
            return Imported(name, Verdict.DONE_BEFORE)
        if member.filename.rsplit("/", 1)[-1] == "DICOMDIR":
            return Imported(name, Verdict.DIRECTORY)
        with tempfile.TemporaryFile(dir=self._state) as copy:
            try:
                with members.open(member) as content:
                    _copy_bounded(content, copy, self._member_limit)
            except UnreadableDataSet as exc:
                return Imported(name, Verdict.REFUSED, str(exc))
            except _ZIP_ERRORS as exc:
                return Imported(name, Verdict.REFUSED, f"cannot be taken out of the zip file: {exc}")
            with mapped(cast(BinaryIO, copy)) as data:
                return self._one(data, name, source, done)

    def _one(self, content: memoryview, name: str, source: _Source, done: ImportLog) -> Imported:
        try:
            outcome = self._store(content, name)
        except RequestError as exc:
            return Imported(name, Verdict.REFUSED, str(exc))
        done.add(source)
        return outcome

    @contextmanager
    def _loaded(self, file: BinaryIO, size: int) -> Iterator[memoryview]:
        """A source's content. OSError if it cannot be read.

        It is read, not mapped: where a medium cannot give out a page that is mapped, the process ends, not the file.
        """
        file.seek(0)
        if size <= _IN_MEMORY:
            yield memoryview(file.read())
            return
        with tempfile.TemporaryFile(dir=self._state) as copy:
            _copy_bounded(file, copy, sys.maxsize)
            with mapped(cast(BinaryIO, copy)) as content:
                yield content

    def _store(self, content: memoryview, name: str) -> Imported:
        meta, scanned = _scan(content)
        if scanned is None:
            return Imported(name, Verdict.DIRECTORY)
        # On a medium the data set is right and its file meta often is not.
        if not scanned.SOPClassUID or not scanned.SOPInstanceUID:
            raise DataSetMismatch("the data set has no SOPClassUID or no SOPInstanceUID: it is no composite instance")
        if not is_storable(scanned.SOPClassUID, private=self._private):
            raise DataSetMismatch(f"SOP class {scanned.SOPClassUID} is not stored here")
        origin = Origin(source_ae="", receiving_ae=self._ae_title, received_at=datetime.now(UTC))
        request = StoreRequest(UID(scanned.SOPClassUID), UID(scanned.SOPInstanceUID), UID(meta.TransferSyntaxUID), origin)
        with self._ingest.begin(request) as ingestion:
            for start in range(meta.data_offset, len(content), _BLOCK):
                ingestion.write(content[start : start + _BLOCK])
            outcome = ingestion.finish()
        return Imported(name, _VERDICTS[outcome.fate], SOPInstanceUID=scanned.SOPInstanceUID)


def _scan(content: memoryview) -> tuple[FileMeta, ScanResult | None]:
    """What a file holds; no scan result for a DICOMDIR. UnreadableDataSet, which tells a damaged file from a foreign one."""
    try:
        meta = read_file_meta(BytesIO(content[:LARGEST_META]))
        if meta.SOPClassUID == MediaStorageDirectoryStorage:
            return meta, None
        with content[meta.data_offset :] as data:
            return meta, scan(data, meta.TransferSyntaxUID)
    except UnreadableDataSet as exc:
        if content[128:132] == PREFIX:
            raise
        raise UnreadableDataSet(f"not a DICOM file: {exc}") from exc


_VERDICTS = {Fate.STORED: Verdict.STORED, Fate.ALREADY_HELD: Verdict.ALREADY_HELD, Fate.KEPT_FIRST: Verdict.KEPT_FIRST}


def count_files(paths: Sequence[Path]) -> int:
    """How many files an import of these paths will look at, for a progress bar; a zip file counts as one."""
    return sum(1 for path in paths for _ in _files(path))


def printable(name: str | Path) -> str:
    """A file's name as text that any terminal takes."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _files(path: Path) -> Iterator[Path]:
    """The files below a path, in a stable order. A DICOMDIR stands for the medium whose root it is in."""
    if path.name == "DICOMDIR" and path.is_file():
        path = path.parent
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders.sort()
        yield from (file for name in sorted(files) if (file := Path(folder, name)).is_file())


def _copy_bounded(content: IO[bytes], copy: IO[bytes], limit: int) -> None:
    """Copy, but not endlessly: the size that a zip file states for a member proves nothing."""
    size = 0
    while block := content.read(_BLOCK):
        size += len(block)
        if size > limit:
            raise UnreadableDataSet(f"it expands to more than {limit} bytes")
        with translated("buffering a member of a zip file"):
            copy.write(block)
    with translated("buffering a member of a zip file"):
        copy.flush()
