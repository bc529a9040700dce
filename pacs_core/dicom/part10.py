"""Questions about whole files in the DICOM File Format: do two of them hold the same data set, what does one hold?"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pacs_core.dicom.file_meta import FileMeta, read_file_meta
from pacs_core.dicom.scan import ScanResult, scan

_BLOCK = 1 << 20


def scan_file(file: BinaryIO, *, transfer_syntax: str, data_offset: int) -> ScanResult:
    """Scan the data set of a local file without reading it into memory. Errors as `scan`."""
    with mapped(file) as content, content[data_offset:] as data:
        return scan(data, transfer_syntax)


def same_data_set(one: BinaryIO, other: BinaryIO) -> bool:
    """Whether two files hold the same data set in the same transfer syntax, byte for byte; the file meta may differ."""
    return _seek_data_set(one).TransferSyntaxUID == _seek_data_set(other).TransferSyntaxUID and _same_rest(one, other)


@contextmanager
def mapped(file: BinaryIO) -> Iterator[memoryview]:
    """A local file's content as memory. An empty file has empty memory."""
    file.seek(0, 2)
    if not file.tell():
        yield memoryview(b"")
        return
    # Not closed explicitly: the traceback of an error may still hold a part of it. It ends with its last view.
    with memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)) as view:
        yield view


def _seek_data_set(file: BinaryIO) -> FileMeta:
    file.seek(0)
    meta = read_file_meta(file)
    file.seek(meta.data_offset)
    return meta


def _same_rest(one: BinaryIO, other: BinaryIO) -> bool:
    while True:
        block = one.read(_BLOCK)
        if block != other.read(_BLOCK):
            return False
        if not block:
            return True
