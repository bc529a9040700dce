"""A film as a raster: sizes, layouts, how images fit, and densities (PS3.3 C.13.3, C.13.5; PS3.14)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.errors import ImageTooLarge, InvalidAttributeValue
from pacs_core.ports.printing import Area, Image
from pacs_core.workflow.film import CROPPED, DECIMATED, DEMAGNIFIED, SUCCESS, Wanted, fit, gray_of, layout, raster_of, size_of


def image(rows: int, columns: int, *, aspect: float = 1) -> Image:
    return Image("1", rows, columns, 1, 8, 8, planar=False, inverted=False, aspect=aspect)


@pytest.mark.parametrize(
    ("film_size", "size"),
    [
        ("A4", (210, 297)),
        ("8INX10IN", (203.2, 254)),
        ("8_5INX11IN", (215.9, 279.4)),
        ("24CMX30CM", (240, 300)),
        ("10INX14IN", (257, 364)),
        ("14INX51IN", (355.6, 1295.4)),
        ("1INX1IN", None),
        ("99INX99IN", None),
        ("LEGAL", None),
        ("", None),
    ],
)
def test_a_film_size_is_what_it_says(film_size: str, size: tuple[float, float] | None) -> None:
    assert size_of(film_size) == (None if size is None else pytest.approx(size))


def test_landscape_lies_on_its_side_and_what_nobody_knows_has_the_default_size() -> None:
    assert raster_of("8INX10IN", landscape=False, dpi=100) == (800, 1000)
    assert raster_of("8INX10IN", landscape=True, dpi=100) == (1000, 800)
    assert raster_of("LEGAL", landscape=False, dpi=100) == (1400, 1700)


def test_a_film_that_would_not_fit_into_memory_is_refused() -> None:
    assert raster_of("14INX51IN", landscape=False, dpi=300) == (4200, 15_300)
    with pytest.raises(InvalidAttributeValue):
        raster_of("14INX51IN", landscape=False, dpi=600)


# At 254 dpi a millimetre has ten pixels: margins of 50, gaps of 20.
@pytest.mark.parametrize(
    ("display_format", "areas"),
    [
        ("STANDARD\\1,1", [(50, 50, 900, 1900)]),
        ("STANDARD\\2,1", [(50, 50, 440, 1900), (510, 50, 440, 1900)]),
        ("STANDARD\\1,2", [(50, 50, 900, 940), (50, 1010, 900, 940)]),
        ("ROW\\1,2", [(50, 50, 900, 940), (50, 1010, 440, 940), (510, 1010, 440, 940)]),
        ("COL\\1,2", [(50, 50, 440, 1900), (510, 50, 440, 940), (510, 1010, 440, 940)]),
    ],
)
def test_images_are_laid_out_in_the_order_of_their_positions(display_format: str, areas: list[tuple[int, int, int, int]]) -> None:
    assert layout(display_format, 1000, 2000, 254) == [Area(*area) for area in areas]


@pytest.mark.parametrize(
    "display_format",
    [
        "",
        "STANDARD",
        "STANDARD\\2",
        "STANDARD\\2,2,2",
        "STANDARD\\0,1",
        "STANDARD\\11,10",
        "ROW\\",
        "ROW\\1,0",
        "SLIDE",
        "CUSTOM\\1",
        "ROW\\50",
    ],
)
def test_a_layout_that_we_do_not_have_is_refused(display_format: str) -> None:
    with pytest.raises(InvalidAttributeValue):
        layout(display_format, 1000, 2000, 254)


@given(st.integers(1, 10), st.integers(1, 10), st.integers(1500, 5000), st.integers(1500, 5000))
def test_image_boxes_never_overlap_and_never_leave_the_film(columns: int, rows: int, width: int, height: int) -> None:
    areas = layout(f"STANDARD\\{columns},{rows}", width, height, 254)
    assert len(areas) == columns * rows
    for number, one in enumerate(areas):
        assert one.left >= 50 <= one.top
        assert one.left + one.width <= width - 50
        assert one.top + one.height <= height - 50
        for other in areas[number + 1 :]:
            apart = one.left + one.width < other.left or other.left + other.width < one.left
            assert apart or one.top + one.height < other.top or other.top + other.height < one.top


BOX = Area(100, 200, 400, 300)


@pytest.mark.parametrize(
    ("sent", "wanted", "crop", "target", "status"),
    [
        # it fills its box
        (image(100, 100), Wanted(True), (0, 0, 100, 100), (150, 200, 300, 300), SUCCESS),
        (image(100, 200), Wanted(True), (0, 0, 200, 100), (100, 250, 400, 200), SUCCESS),
        (image(100, 100, aspect=0.5), Wanted(True), (0, 0, 100, 100), (100, 250, 400, 200), SUCCESS),
        # it is as large as it is
        (image(100, 100), Wanted(False), (0, 0, 100, 100), (250, 300, 100, 100), SUCCESS),
        (image(300, 400), Wanted(False), (0, 0, 400, 300), (100, 200, 400, 300), SUCCESS),
        # it is as large as requested
        (image(100, 100), Wanted(True, width=50), (0, 0, 100, 100), (275, 325, 50, 50), SUCCESS),
        # it is too large
        (image(600, 600), Wanted(True), (0, 0, 600, 600), (150, 200, 300, 300), DEMAGNIFIED),
        (image(600, 600), Wanted(True, behavior="DECIMATE"), (0, 0, 600, 600), (150, 200, 300, 300), DECIMATED),
        (image(600, 600), Wanted(True, behavior="CROP"), (100, 150, 400, 300), (100, 200, 400, 300), CROPPED),
        (image(600, 600), Wanted(False, behavior="CROP"), (100, 150, 400, 300), (100, 200, 400, 300), CROPPED),
        (image(100, 100), Wanted(True, width=600, behavior="CROP"), (16, 25, 67, 50), (100, 200, 400, 300), CROPPED),
        (image(100, 100), Wanted(True, width=600), (0, 0, 100, 100), (150, 200, 300, 300), DEMAGNIFIED),
    ],
)
def test_an_image_fits_as_is_requested(
    sent: Image, wanted: Wanted, crop: tuple[int, int, int, int], target: tuple[int, int, int, int], status: int
) -> None:
    fitted = fit(sent, BOX, wanted)
    assert (fitted.crop, fitted.target, fitted.status) == (Area(*crop), Area(*target), status)


@pytest.mark.parametrize("wanted", [Wanted(True, behavior="FAIL"), Wanted(False), Wanted(False, behavior="DECIMATE")])
def test_an_image_that_is_too_large_and_must_not_be_made_to_fit_is_refused(wanted: Wanted) -> None:
    with pytest.raises(ImageTooLarge):
        fit(image(600, 600), BOX, wanted)


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 1000),
    st.sampled_from(["", "CROP", "DECIMATE"]),
)
def test_what_is_shown_lies_within_its_box_and_within_the_image(rows: int, columns: int, aspect: float, width: int, behavior: str) -> None:
    fitted = fit(image(rows, columns, aspect=aspect), BOX, Wanted(True, width, behavior))
    assert BOX.left <= fitted.target.left
    assert fitted.target.left + fitted.target.width <= BOX.left + BOX.width
    assert BOX.top <= fitted.target.top
    assert fitted.target.top + fitted.target.height <= BOX.top + BOX.height
    assert fitted.crop.left >= 0
    assert fitted.crop.left + fitted.crop.width <= columns
    assert fitted.crop.top >= 0
    assert fitted.crop.top + fitted.crop.height <= rows
    assert min(fitted.target.width, fitted.target.height, fitted.crop.width, fitted.crop.height) >= 1


def test_densities_become_grays_in_steps_that_look_even() -> None:
    assert [gray_of(density) for density in ("BLACK", "WHITE", "320", "0", "999")] == [0, 255, 0, 255, 0]
    grays = [gray_of(str(density)) for density in range(0, 321, 20)]
    assert grays == sorted(grays, reverse=True)
    assert gray_of("100") == 130  # 210 of 11.26 to 2010 cd/m2 is JND 579 of 227 to 917 (PS3.14 7.1)
