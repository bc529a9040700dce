"""Instances by the thousand: small in CPU time, distinct in every byte that matters, of the sizes that modalities send."""

import hashlib
import random
import struct
from dataclasses import dataclass

from pydicom.uid import MRImageStorage

_POOL = random.Random(1).randbytes(4 << 20)  # noqa: S311  # pixels, not secrets
_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sxxL")
_PIXEL_DATA = (0x7FE0, 0x0010)


@dataclass(frozen=True, slots=True)
class Instance:
    """A data set in Explicit VR Little Endian, and its names.

    Attributes:
        data: the data set as it is sent.
        sha256: of `data`.
    """

    SOPInstanceUID: str
    data: bytes
    sha256: str


class Factory:
    """Makes instances of one patient, a study each time `new_study` is called. Reproducible by its seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self.new_study()

    def new_study(self) -> None:
        """Instances that follow belong to another study."""
        self._study, self._series = self._uid(), self._uid()

    def make(self, size: int | None = None) -> Instance:
        """An instance nobody has seen, of about `size` bytes."""
        return self.variant(self._uid(), size)

    def variant(self, uid: str, size: int | None = None) -> Instance:
        """An instance of that UID, in the present study, with pixels of its own."""
        data = self._encode(uid, random_size(self._random) if size is None else size)
        return Instance(uid, data, hashlib.sha256(data).hexdigest())

    def _uid(self) -> str:
        return f"2.25.{self._random.getrandbits(100)}"

    def _encode(self, uid: str, size: int) -> bytes:
        start = self._random.randrange(len(_POOL) // 2)
        pixels = _POOL[start : start + size // 2 * 2]
        texts = (
            (0x0008, 0x0016, b"UI", MRImageStorage),
            (0x0008, 0x0018, b"UI", uid),
            (0x0008, 0x0020, b"DA", "20240229"),
            (0x0008, 0x0060, b"CS", "MR"),
            (0x0010, 0x0010, b"PN", "Synthetic^Case"),
            (0x0010, 0x0020, b"LO", "DURABILITY"),
            (0x0020, 0x000D, b"UI", self._study),
            (0x0020, 0x000E, b"UI", self._series),
        )
        head = b"".join(_text(*text) for text in texts)
        return head + _LONG.pack(*_PIXEL_DATA, b"OW", len(pixels)) + pixels


def random_size(rng: random.Random) -> int:
    """10 KB to 2 MB, mostly small: below and above the 1 MiB up to which the journal holds the content."""
    chosen = rng.random()
    if chosen < 0.9:
        return rng.randrange(10_000, 60_000)
    return rng.randrange(60_000, 1_000_000) if chosen < 0.97 else rng.randrange(1_000_000, 2_000_000)


def _text(group: int, element: int, vr: bytes, value: str) -> bytes:
    raw = value.encode()
    raw += (b"\0" if vr == b"UI" else b" ") * (len(raw) % 2)
    return _SHORT.pack(group, element, vr, len(raw)) + raw
