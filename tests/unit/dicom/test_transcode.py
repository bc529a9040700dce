import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from pacs_core.dicom.file_meta import read_file_meta
from pacs_core.dicom.scan import scan
from pacs_core.dicom.transcode import can_transcode, transcode
from pacs_core.errors import ObjectMissing, TranscodingError

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
UNCOMPRESSED = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def part10(data: bytes, syntax: str, tmp_path: Path) -> Path:
    raw = syntax.encode() + b"\0" * (len(syntax) % 2)
    path = tmp_path / f"{syntax}.dcm"
    path.write_bytes(bytes(128) + b"DICM\2\0\x10\0UI" + len(raw).to_bytes(2, "little") + raw + data)
    return path


@pytest.mark.parametrize("stored", [*UNCOMPRESSED, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("wanted", UNCOMPRESSED)
def test_everything_that_can_be_decoded_can_be_had_uncompressed(stored: str, wanted: str) -> None:
    assert can_transcode(stored, wanted)


def test_nothing_is_compressed_and_video_stays_as_it_is() -> None:
    assert not can_transcode(ExplicitVRLittleEndian, JPEG2000Lossless)
    assert not can_transcode(MPEG2MPML, ExplicitVRLittleEndian)
    assert not can_transcode("1.2.3", ExplicitVRLittleEndian)
    assert can_transcode("1.2.3", "1.2.3")


@pytest.mark.parametrize("wanted", UNCOMPRESSED)
@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "rtplan.dcm", "test-SR.dcm"]
)
def test_the_content_is_the_same_in_every_uncompressed_transfer_syntax(name: str, wanted: str, tmp_path: Path) -> None:
    path = BUNDLED / name
    copy = part10(transcode(path, wanted), wanted, tmp_path)
    with path.open("rb") as file:
        meta = read_file_meta(file)
    original = scan(path.read_bytes()[meta.data_offset :], meta.TransferSyntaxUID)
    assert scan(transcode(path, wanted), wanted) == original
    ds = dcmread(path)
    if "PixelData" in ds:
        assert np.array_equal(dcmread(copy).pixel_array, ds.pixel_array)
    back = transcode(copy, meta.TransferSyntaxUID)
    if meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        assert scan(back, meta.TransferSyntaxUID) == original


@pytest.mark.parametrize("wanted", UNCOMPRESSED)
@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_rle.dcm"],
)
def test_pixels_are_decoded(name: str, wanted: str, tmp_path: Path) -> None:
    data = transcode(BUNDLED / name, wanted)
    decoded = dcmread(part10(data, wanted, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(BUNDLED / name)
        ds.decompress(as_rgb=False, generate_instance_uid=False)
    assert np.array_equal(decoded.pixel_array, ds.pixel_array)
    assert decoded.SOPInstanceUID == ds.SOPInstanceUID


SUBSAMPLED = ["examples_ybr_color.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm"]


@pytest.mark.parametrize("name", SUBSAMPLED)
def test_subsampled_colour_is_fully_sampled_afterwards_and_says_so(name: str, tmp_path: Path) -> None:
    decoded = dcmread(part10(transcode(BUNDLED / name, ImplicitVRLittleEndian), ImplicitVRLittleEndian, tmp_path))
    assert decoded.PhotometricInterpretation == "YBR_FULL"
    assert len(decoded.PixelData) == decoded.Rows * decoded.Columns * 3 * int(decoded.get("NumberOfFrames", 1))
    assert np.array_equal(pixel_array(decoded), pixel_array(BUNDLED / name))


@pytest.mark.skipif(not shutil.which("dcmdjpeg"), reason="needs DCMTK")
@pytest.mark.parametrize("name", SUBSAMPLED)
def test_colours_are_those_that_dcmtk_decodes(name: str, tmp_path: Path) -> None:
    reference = tmp_path / "reference.dcm"
    subprocess.run(["dcmdjpeg", BUNDLED / name, reference], check=True, capture_output=True)
    ours = part10(transcode(BUNDLED / name, ExplicitVRLittleEndian), ExplicitVRLittleEndian, tmp_path)
    assert np.array_equal(pixel_array(ours), pixel_array(reference))


def with_icon(source: str, pixels: bytes, *, encapsulated: bool, path: Path) -> Path:
    ds = dcmread(BUNDLED / source)
    icon = Dataset()
    icon.SamplesPerPixel, icon.PhotometricInterpretation = 1, "MONOCHROME2"
    icon.Rows, icon.Columns, icon.BitsAllocated, icon.BitsStored, icon.HighBit, icon.PixelRepresentation = 8, 8, 8, 8, 7, 0
    icon.add_new("PixelData", "OB", pixels)
    icon["PixelData"].is_undefined_length = encapsulated
    ds.IconImageSequence = [icon]
    ds.save_as(path)
    return path


@pytest.mark.parametrize("wanted", UNCOMPRESSED)
@pytest.mark.parametrize("source", ["SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm"])
def test_a_compressed_icon_does_not_keep_its_image_from_being_decoded(source: str, wanted: str, tmp_path: Path) -> None:
    path = with_icon(source, encapsulate([bytes(16)]), encapsulated=True, path=tmp_path / "stored.dcm")
    decoded = dcmread(part10(transcode(path, wanted), wanted, tmp_path))
    assert "IconImageSequence" not in decoded
    assert np.array_equal(pixel_array(decoded), pixel_array(BUNDLED / source))


@pytest.mark.parametrize("wanted", UNCOMPRESSED)
def test_an_uncompressed_icon_is_kept(wanted: str, tmp_path: Path) -> None:
    path = with_icon("MR_small_RLE.dcm", bytes(range(64)), encapsulated=False, path=tmp_path / "stored.dcm")
    decoded = dcmread(part10(transcode(path, wanted), wanted, tmp_path))
    assert decoded.IconImageSequence[0].PixelData == bytes(range(64))


def test_the_stored_transfer_syntax_is_given_as_it_is() -> None:
    path = BUNDLED / "JPEG2000.dcm"
    data = transcode(path, JPEG2000Lossless.replace("90", "91"))
    assert path.read_bytes().endswith(data)


def test_what_defeats_the_decoder_is_told() -> None:
    for name in ("JPGExtended.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"):
        with pytest.raises(TranscodingError):
            transcode(BUNDLED / name, ExplicitVRLittleEndian)
    with pytest.raises(TranscodingError):
        transcode(BUNDLED / "CT_small.dcm", JPEG2000Lossless)


def test_a_data_set_that_is_cut_short_is_told() -> None:
    with pytest.raises(TranscodingError):
        transcode(BUNDLED / "MR_truncated.dcm", ImplicitVRLittleEndian)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        transcode(tmp_path / "absent.dcm", ImplicitVRLittleEndian)
