"""Pages as pixels, as PNG and as PDF, the latter read by poppler; and images made ready to be printed."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as PillowImage
from pydicom import Dataset

from pacs_core.errors import IntegrityError, ObjectMissing, StorageUnavailable, TranscodingError
from pacs_core.imaging.pages import render
from pacs_core.imaging.pdf import write_document
from pacs_core.imaging.preformatted import preformatted
from pacs_core.ports.printing import Area, Box, Image, Page, Picture, Resampling
from tests.support.processes import assert_succeeded, run
from tests.support.synthetic import Study, save

Values = npt.NDArray[np.unsignedinteger[Any]]


@pytest.fixture
def locate(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: tmp_path / name


def noise(*shape: int, high: int = 256) -> Values:
    return np.random.default_rng(7).integers(0, high, size=shape, dtype=np.uint8 if high == 256 else np.uint16)


def picture(values: Values, target: Area, path: Path, **changes: Any) -> Picture:
    values.tofile(path)
    is_color, wide = values.ndim == 3, values.dtype.itemsize == 2
    image = Image(
        file=path.name,
        rows=values.shape[0],
        columns=values.shape[1],
        samples=3 if is_color else 1,
        bits_allocated=16 if wide else 8,
        bits_stored=12 if wide else 8,
        planar=False,
        inverted=False,
        aspect=1,
    )
    shown: dict[str, Any] = {
        "crop": Area(0, 0, image.columns, image.rows),
        "resampling": Resampling.NEAREST,
        "inverted": False,
        "black": 0,
        "white": 255,
    }
    return Picture(image=image, target=target, **{**shown, **changes})


def page(*boxes: Box, color: bool = False, trim: bool = False) -> Page:
    return Page(60, 40, 72, is_color=color, gray=9, trim=trim, boxes=boxes)


def pixels(rendered_page: Page, locate: Callable[[str], Path]) -> Values:
    file = io.BytesIO()
    rendered = render(rendered_page, locate)
    rendered.save(file)
    with PillowImage.open(file) as image:
        shown = np.asarray(image)
    assert b"".join(rendered.rows()) == shown.tobytes()
    return shown


def test_every_pixel_is_where_it_belongs(tmp_path: Path, locate: Callable[[str], Path]) -> None:
    sent = noise(10, 20)
    shown = pixels(page(Box(Area(5, 6, 30, 20), 77, picture(sent, Area(10, 8, 20, 10), tmp_path / "1"))), locate)
    assert shown.shape == (40, 60)
    assert np.array_equal(shown[8:18, 10:30], sent)
    shown = shown.copy()
    shown[8:18, 10:30] = 77
    assert (shown[6:26, 5:35] == 77).all()
    shown[6:26, 5:35] = 9
    assert (shown == 9).all()


def test_twelve_bits_become_eight_evenly_and_inverted_ones_the_other_way_round(tmp_path: Path, locate: Callable[[str], Path]) -> None:
    sent = noise(10, 20, high=4096)
    for is_inverted in (False, True):
        where = Area(0, 0, 20, 10)
        shown = pixels(page(Box(where, 0, picture(sent, where, tmp_path / "1", inverted=is_inverted))), locate)[:10, :20]
        expected = np.rint((4095 - sent if is_inverted else sent) * (255 / 4095)).astype(np.uint8)
        assert np.array_equal(shown, expected)


def test_densities_narrow_what_the_values_are_spread_over(tmp_path: Path, locate: Callable[[str], Path]) -> None:
    where = Area(0, 0, 2, 1)
    shown = pixels(page(Box(where, 0, picture(np.array([[0, 255]], np.uint8), where, tmp_path / "1", black=20, white=200))), locate)
    assert list(shown[0, :2]) == [20, 200]


@pytest.mark.parametrize("is_inverted", [False, True])
def test_a_presentation_lut_says_what_the_values_become(tmp_path: Path, locate: Callable[[str], Path], is_inverted: bool) -> None:
    sent, where = noise(10, 20), Area(0, 0, 20, 10)
    curve = np.arange(256, dtype=np.uint8) // 2
    curve.tofile(tmp_path / "curve")
    shown = pixels(page(Box(where, 0, picture(sent, where, tmp_path / "1", curve="curve", inverted=is_inverted))), locate)[:10, :20]
    assert np.array_equal(shown, curve[255 - sent if is_inverted else sent])


def test_only_the_crop_is_shown(tmp_path: Path, locate: Callable[[str], Path]) -> None:
    sent, where = noise(30, 40), Area(0, 0, 20, 10)
    shown = pixels(page(Box(where, 0, picture(sent, where, tmp_path / "1", crop=Area(5, 7, 20, 10)))), locate)
    assert np.array_equal(shown[:10, :20], sent[7:17, 5:25])


def test_replicated_pixels_are_whole(tmp_path: Path, locate: Callable[[str], Path]) -> None:
    sent, where = noise(5, 8), Area(0, 0, 24, 15)
    shown = pixels(page(Box(where, 0, picture(sent, where, tmp_path / "1"))), locate)
    assert np.array_equal(shown[:15, :24], sent.repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("is_planar", [True, False])
def test_color_is_color_in_either_configuration(tmp_path: Path, locate: Callable[[str], Path], is_planar: bool) -> None:
    sent, where = noise(10, 20, 3), Area(3, 4, 20, 10)
    shown = picture(sent, where, tmp_path / "1")
    if is_planar:
        np.moveaxis(sent, -1, 0).copy().tofile(tmp_path / "1")
        image = Image("1", 10, 20, 3, 8, 8, planar=True, inverted=False, aspect=1)
        shown = Picture(image, shown.crop, where, Resampling.NEAREST, inverted=False, black=0, white=255)
    assert np.array_equal(pixels(page(Box(where, 0, shown), color=True), locate)[4:14, 3:23], sent)


def test_a_trim_goes_around_a_box(locate: Callable[[str], Path]) -> None:
    shown = pixels(page(Box(Area(10, 10, 20, 15), 0, None), trim=True), locate)
    assert (shown[9, 9:31] == 255).all()
    assert (shown[9:26, 30] == 255).all()
    assert (shown[10:25, 10:30] == 0).all()


def test_an_image_that_is_gone_or_cut_short_is_told_apart(tmp_path: Path, locate: Callable[[str], Path]) -> None:
    where = Area(0, 0, 20, 10)
    shown = picture(noise(10, 20), where, tmp_path / "1")
    (tmp_path / "1").write_bytes(b"short")
    with pytest.raises(StorageUnavailable):
        render(page(Box(where, 0, shown)), locate)
    (tmp_path / "1").unlink()
    with pytest.raises(ObjectMissing):
        render(page(Box(where, 0, shown)), locate)


def test_poppler_finds_in_the_document_what_is_on_the_pages(tmp_path: Path, locate: Callable[[str], Path]) -> None:
    where = Area(0, 0, 60, 40)
    pages = [
        page(Box(where, 0, picture(noise(40, 60), where, tmp_path / "1"))),
        page(Box(where, 0, picture(noise(40, 60, 3), where, tmp_path / "2")), color=True),
    ]
    paths = [tmp_path / f"page-{number}.png" for number in (1, 2)]
    for each, path in zip(pages, paths, strict=True):
        with path.open("wb") as file:
            render(each, locate).save(file)
    with (tmp_path / "job.pdf").open("wb") as file:
        write_document(file, paths, dpi=[72, 144])
    done = assert_succeeded(run(["pdfimages", "-png", tmp_path / "job.pdf", tmp_path / "found"]))
    assert done.stdout == ""  # it would complain there
    for number, path in enumerate(paths):
        with PillowImage.open(path) as one, PillowImage.open(tmp_path / f"found-00{number}.png") as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))
    sizes = assert_succeeded(run(["pdfinfo", "-l", "2", tmp_path / "job.pdf"])).stdout
    assert "Page    1 size:  60 x 40 pts" in sizes
    assert "Page    2 size:  30 x 20 pts" in sizes
    assert_succeeded(run(["pdftoppm", "-r", "72", tmp_path / "job.pdf", tmp_path / "drawn"]))


def test_only_what_we_make_goes_into_a_document(tmp_path: Path) -> None:
    PillowImage.new("RGBA", (2, 2)).save(tmp_path / "alpha.png")
    (tmp_path / "text.png").write_text("text")
    for name in ("alpha.png", "text.png"):
        with pytest.raises(IntegrityError):
            write_document(io.BytesIO(), [tmp_path / name], dpi=[72])


def dicom(tmp_path: Path, **changes: Any) -> Path:
    ds = next(Study("MR").datasets())
    ds.PixelData = np.arange(16, dtype=np.uint16).reshape(4, 4).tobytes()
    ds.Rows = ds.Columns = 4
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    save(ds, tmp_path / "image.dcm")
    return tmp_path / "image.dcm"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, np.rint(np.arange(16) * 17)),  # from the darkest to the brightest
        ({"WindowCenter": 8, "WindowWidth": 5}, np.rint(np.clip((np.arange(16) - 7.5) / 4 + 0.5, 0, 1) * 255)),
        ({"WindowCenter": [8, 100], "WindowWidth": [1, 100]}, np.where(np.arange(16) > 7, 255, 0)),
        ({"RescaleSlope": 2, "RescaleIntercept": -10, "WindowCenter": 6, "WindowWidth": 1}, np.where(np.arange(16) > 7, 255, 0)),
    ],
)
def test_an_image_is_printed_as_its_window_shows_it(tmp_path: Path, changes: dict[str, Any], expected: npt.NDArray[np.float64]) -> None:
    image = preformatted(dicom(tmp_path, **changes), color=False)
    assert (image.rows, image.columns, image.is_color, image.is_inverted, image.aspect) == (4, 4, False, False, (1, 1))
    assert list(image.pixels) == list(expected)


def test_a_voi_table_goes_before_a_window(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [16, 0, 8], np.arange(100, 116, dtype="<u2").tobytes()
    image = preformatted(dicom(tmp_path, VOILUTSequence=[table], WindowCenter=1, WindowWidth=1), color=False)
    assert list(image.pixels) == list(range(100, 116))


def test_gray_is_printed_in_color_and_color_in_gray(tmp_path: Path) -> None:
    image = preformatted(dicom(tmp_path, PhotometricInterpretation="MONOCHROME1"), color=False)
    assert image.is_inverted
    image = preformatted(dicom(tmp_path, PhotometricInterpretation="MONOCHROME1"), color=True)
    assert (image.is_inverted, image.is_color, len(image.pixels), image.pixels[0]) == (False, True, 48, 255)
    rgb = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
    }
    red = dicom(tmp_path, **rgb, PixelData=bytes([255, 0, 0] * 16))
    assert list(preformatted(red, color=False).pixels) == [76] * 16
    assert list(preformatted(red, color=True).pixels) == [255] * 16 + [0] * 32


def test_pixels_that_are_not_square_are_said_to_be(tmp_path: Path) -> None:
    assert preformatted(dicom(tmp_path, PixelSpacing=[1, 0.5]), color=False).aspect == (1000, 500)
    assert preformatted(dicom(tmp_path, PixelAspectRatio=[2, 1]), color=False).aspect == (2, 1)


def test_a_file_without_an_image_cannot_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("no image")
    with pytest.raises(TranscodingError):
        preformatted(path, color=False)
    with pytest.raises(FileNotFoundError):
        preformatted(tmp_path / "none", color=False)
