"""DICOM files as bytes: where the data set begins, and whether two files hold the same one."""

import struct
from collections.abc import Iterable
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID

_PREAMBLE = 132
_GROUP_LENGTH_ELEMENT = 12


def dataset_offset(path: Path) -> int:
    """Where the data set begins, after preamble, prefix and file meta (PS3.10 section 7.1); 0 without them."""
    with path.open("rb") as file:
        head = file.read(_PREAMBLE + _GROUP_LENGTH_ELEMENT)
    if head[128:132] != b"DICM":
        return 0
    (length,) = struct.unpack_from("<L", head, _PREAMBLE + 8)
    return int(_PREAMBLE + _GROUP_LENGTH_ELEMENT + length)


def dataset_bytes(path: Path) -> bytes:
    """The data set as it stands in the file."""
    return path.read_bytes()[dataset_offset(path) :]


def transfer_syntax(path: Path) -> UID:
    """The transfer syntax that the file meta names."""
    return UID(dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta.TransferSyntaxUID)


def by_instance(files: Iterable[Path]) -> dict[str, Path]:
    """The files by SOPInstanceUID."""
    return {str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path for path in files}


def assert_identical(sent: Iterable[Path], received: Iterable[Path]) -> None:
    """Each sent instance was received, no other, in the same transfer syntax and with the same bytes."""
    expected, actual = by_instance(sent), by_instance(received)
    assert sorted(actual) == sorted(expected)
    for uid, path in expected.items():
        assert transfer_syntax(actual[uid]) == transfer_syntax(path), uid
        assert dataset_bytes(actual[uid]) == dataset_bytes(path), f"{uid}: the data set differs"
