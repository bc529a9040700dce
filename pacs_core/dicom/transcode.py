"""An instance's data set in another transfer syntax than the one it is stored in.

Between uncompressed transfer syntaxes nothing but the encoding changes. From compressed ones the pixel data is decoded,
to native explicit VR little endian first.
"""

import warnings
import zlib
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_core.dicom.elements import IMPLICIT_LITTLE, Encoding, read_elements, write_elements
from pacs_core.dicom.file_meta import guess_transfer_syntax, read_file_meta
from pacs_core.dicom.part10 import mapped
from pacs_core.dicom.scan import inflate
from pacs_core.errors import ObjectMissing, StorageUnavailable, TranscodingError, UnreadableDataSet

_EXPLICIT_LITTLE = Encoding(implicit=False, little_endian=True)
_ENCODINGS: dict[str, Encoding] = {
    ImplicitVRLittleEndian: IMPLICIT_LITTLE,
    ExplicitVRLittleEndian: _EXPLICIT_LITTLE,
    ExplicitVRBigEndian: Encoding(implicit=False, little_endian=False),
    DeflatedExplicitVRLittleEndian: _EXPLICIT_LITTLE,
}
_SUBSAMPLED, _FULLY_SAMPLED = "YBR_FULL_422", "YBR_FULL"


def can_transcode(stored: str, wanted: str) -> bool:
    """Whether data sets in one transfer syntax can be had in another. Nothing is ever compressed."""
    return stored == wanted or (wanted in _ENCODINGS and (stored in _ENCODINGS or _is_decodable(stored)))


def transcode(path: Path, wanted: str, *, name: str = "") -> bytes:
    """The data set of a stored file, without file meta, in the wanted transfer syntax.

    `name` is what messages call the file, where that is not the end of its path. Raises TranscodingError if that is impossible for
    this instance, ObjectMissing or StorageUnavailable if the file cannot be read.
    """
    name = name or path.name
    try:
        with path.open("rb") as file:
            meta = read_file_meta(file)
            stored = meta.TransferSyntaxUID
            if not can_transcode(stored, wanted):
                raise TranscodingError(f"transfer syntax {stored} cannot be turned into {wanted}")
            with mapped(file) as content, content[meta.data_offset :] as data:
                if stored == wanted:
                    return bytes(data)
                native = data if stored in _ENCODINGS else memoryview(_decoded(path, name, is_implicit=_looks_implicit(data)))
                return _reencoded(native, stored if stored in _ENCODINGS else ExplicitVRLittleEndian, wanted)
    except FileNotFoundError as exc:
        raise ObjectMissing(f"there is no file {name}") from exc
    except OSError as exc:
        raise StorageUnavailable(f"{name} cannot be read: {exc.strerror}") from exc
    except UnreadableDataSet as exc:
        raise TranscodingError(f"{name} cannot be parsed: {exc}") from exc


def _is_decodable(transfer_syntax: str) -> bool:
    try:
        return get_decoder(transfer_syntax).is_available
    except NotImplementedError:
        return False


def _reencoded(data: memoryview, stored: str, wanted: str) -> bytes:
    source, target = _ENCODINGS[stored], _ENCODINGS[wanted]
    if stored == DeflatedExplicitVRLittleEndian:
        data = memoryview(inflate(data))
    encoded = (
        bytes(data)
        if source == target and _looks_implicit(data) == source.implicit
        else write_elements(read_elements(data, source), target, source=source)
    )
    return _deflated(encoded) if wanted == DeflatedExplicitVRLittleEndian else encoded


def _looks_implicit(data: memoryview) -> bool:
    return guess_transfer_syntax(bytes(data[:6])) == ImplicitVRLittleEndian


def _deflated(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = engine.compress(data) + engine.flush()
    return deflated + b"\0" * (len(deflated) % 2)


def _decoded(path: Path, name: str, *, is_implicit: bool) -> bytes:
    """The data set with native pixel data, little endian, in the VR encoding that it is in (some are in the wrong one)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values elsewhere in the data set are none of a decoder's business
        try:
            ds = dcmread(path)
            _drop_encapsulated_icon(ds)
            if "PixelData" in ds:
                _decompress(ds)
            out = DicomBytesIO()
            out.is_implicit_VR, out.is_little_endian = is_implicit, True
            write_dataset(out, ds)
        except Exception as exc:  # decoders are third parties of third parties, and raise whatever they like
            raise TranscodingError(f"the pixel data of {name} cannot be decoded: {type(exc).__name__}") from exc
        return out.getvalue()


def _drop_encapsulated_icon(ds: Dataset) -> None:
    """An icon may be compressed as the image is (PS3.5 A.4), which nothing uncompressed can hold. It is optional."""
    icons = ds.get("IconImageSequence") or ()
    if any("PixelData" in icon and icon["PixelData"].is_undefined_length for icon in icons):
        del ds.IconImageSequence


def _decompress(ds: Dataset) -> None:
    ds.decompress(as_rgb=False, generate_instance_uid=False)
    # Subsampled chroma is expanded by every decoder, but pydicom keeps the name that says it is not (PS3.3 C.7.6.3.1.2).
    if ds.PhotometricInterpretation == _SUBSAMPLED:
        ds.PhotometricInterpretation = _FULLY_SAMPLED
