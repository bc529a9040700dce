"""A large multi-frame: `python -m bench.large [--quick]`. Memory that an instance of 4 GiB (with --quick 512 MiB) costs the listener.

Growth of its private memory, sampled while the instance comes in from a plain socket. The data set, encapsulated pixel data
in fragments of 1 MiB, is made as it is sent: nothing of that size is ever in the client's memory or on its disk.
"""

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Self

import psutil
from pydicom import Dataset
from pydicom.uid import JPEGLSLossless, generate_uid
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage as _SOP_CLASS
from pynetdicom.dsutils import encode

from bench.command import parse, scratch
from bench.peers import ours
from tests.support.dcmtk import Scp
from tests.support.raw import RawAssociation, raw_association, store_command

_MIB = 1 << 20
_LIMIT = 64  # MiB
_SAMPLE = 0.05  # seconds
_PART = 131_060
_COMMAND, _LAST = 1, 2
_ITEM, _SEQUENCE_END = 0xE000FFFE, 0xE0DDFFFE  # as two little endian words


def main() -> None:
    """Send it and print."""
    options = parse(__doc__)
    fragments = 512 if options.quick else 4096
    uid = generate_uid()
    with scratch() as root, ours(root / "pacs", settings={"PACS_RESERVE_BYTES": "0"}) as pacs, _open(pacs.scp) as assoc:
        with _Sampler(pacs.process.process.pid) as sampler:
            started = time.perf_counter()
            assoc.send(store_command(_SOP_CLASS, uid), control=_COMMAND | _LAST)
            for part in _parts(_data_set(uid, fragments)):
                assoc.send(part, control=0)
            assoc.send(b"", control=_LAST)
            status = assoc.status()
            elapsed = time.perf_counter() - started
        assoc.release()
    growth = (sampler.highest - sampler.first) / _MIB
    print(f"{fragments} MiB answered with {status:04X} after {elapsed:.1f} s: {fragments / elapsed:.0f} MiB/s")
    print(f"private memory of the listener: {sampler.first / _MIB:.1f} MiB before, {sampler.highest / _MIB:.1f} MiB at most")
    print(f"  target ≤ {_LIMIT} MiB of growth: {growth:.1f} MiB {'met' if growth <= _LIMIT and status == 0 else 'MISSED'}")


def _open(scp: Scp) -> AbstractContextManager[RawAssociation]:
    return raw_association(scp, _SOP_CLASS, JPEGLSLossless)


class _Sampler:
    """The private memory of a process, in bytes: first, and the highest value until the block ends."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.first = self.highest = self._now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_SAMPLE):
            self.highest = max(self.highest, self._now())

    def _now(self) -> int:
        """What no other process shares; pages of mapped files are shared with the kernel's cache and do not count."""
        memory = self._process.memory_info()
        return int(memory.rss - memory.shared)


def _data_set(uid: str, fragments: int) -> Iterator[bytes]:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = _SOP_CLASS, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = generate_uid(), generate_uid(), "LARGE"
    ds.NumberOfFrames = fragments
    head = encode(ds, is_implicit_vr=False, is_little_endian=True)
    assert head is not None, "the data set cannot be encoded"
    yield head + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + struct.pack("<II", _ITEM, 0)
    frame = bytes(_MIB)
    for _ in range(fragments):
        yield struct.pack("<II", _ITEM, len(frame)) + frame
    yield struct.pack("<II", _SEQUENCE_END, 0)


def _parts(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, len(block), _PART):
            yield block[start : start + _PART]


if __name__ == "__main__":
    main()
