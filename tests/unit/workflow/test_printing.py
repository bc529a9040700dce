"""What may be asked of a film session, its films and their image boxes, and what is printed then (PS3.4 annex H)."""

from typing import Any

import pytest

from pacs_core.errors import (
    ClassConflict,
    DuplicateInstance,
    EmptyFilmSession,
    ImageTooLarge,
    InvalidAttributeValue,
    MissingAttribute,
    MissingAttributeValue,
    NotFound,
    RequestError,
)
from pacs_core.model import Header
from pacs_core.ports.printing import Resampling
from pacs_core.workflow.film import DEMAGNIFIED
from pacs_core.workflow.print_attributes import DENSITY_OUT_OF_RANGE, NO_MEMORY_ALLOCATION, OUT_OF_RANGE, UNKNOWN_ATTRIBUTE
from pacs_core.workflow.printing import COLOR_BOX, EMPTY_FILM, EMPTY_SESSION, GRAY_BOX, Answer, FilmSession

IMAGE: Header = {
    "SamplesPerPixel": "1",
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": "10",
    "Columns": "20",
    "BitsAllocated": "8",
    "BitsStored": "8",
    "HighBit": "7",
    "PixelRepresentation": "0",
}
COLOR_IMAGE: Header = IMAGE | {"SamplesPerPixel": "3", "PhotometricInterpretation": "RGB", "PlanarConfiguration": "1"}


@pytest.fixture
def session() -> FilmSession:
    made = FilmSession(dpi=100)
    made.create("1.1", {"FilmSessionLabel": "Thorax"})
    return made


def add_film(
    session: FilmSession, uid: str = "1.2", display_format: str = "STANDARD\\2,1", box_class: str = GRAY_BOX, **given: str
) -> Answer:
    said: Header = {"ImageDisplayFormat": display_format, "ReferencedFilmSessionSequence": [{"ReferencedSOPInstanceUID": "1.1"}], **given}
    return session.create_film(uid, box_class, said, [f"{uid}.{number}" for number in range(1, session.count_boxes(said) + 1)])


def put(session: FilmSession, uid: str = "1.2.1", image: Header | None = IMAGE, *, length: int = 200, **given: Any) -> Answer:
    said: Header = {"ImageBoxPosition": uid[-1], "BasicGrayscaleImageSequence": [image] if image else [], **given}
    return session.set_image(uid, GRAY_BOX, said, f"{uid}.pixels", length)


def test_a_session_says_what_it_was_told_and_its_defaults_for_the_rest(session: FilmSession) -> None:
    assert session.attributes == {
        "FilmSessionLabel": "Thorax",
        "NumberOfCopies": "1",
        "PrintPriority": "MED",
        "MediumType": "PAPER",
        "FilmDestination": "MAGAZINE",
    }
    answer = session.change("1.1", {"NumberOfCopies": "3", "PrintPriority": ""})
    assert (answer.status, session.attributes["NumberOfCopies"], session.attributes["PrintPriority"]) == (0x0000, "3", "MED")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"NumberOfCopies": "100"}, OUT_OF_RANGE),
        ({"NumberOfCopies": "x"}, OUT_OF_RANGE),
        ({"PrintPriority": "NOW"}, OUT_OF_RANGE),
        ({"PatientName": "A^B"}, UNKNOWN_ATTRIBUTE),
        ({"MemoryAllocation": "1"}, NO_MEMORY_ALLOCATION),
        ({"MemoryAllocation": "1", "PrintPriority": "NOW"}, NO_MEMORY_ALLOCATION),
        ({"PatientName": "A^B", "PrintPriority": "NOW"}, OUT_OF_RANGE),
    ],
)
def test_what_is_not_supported_becomes_the_default_with_a_warning(given: Header, status: int) -> None:
    session = FilmSession(dpi=100)
    answer = session.create("1.1", given)
    said = {keyword: value for keyword, value in answer.attributes.items() if value}
    assert (answer.status, said) == (status, FilmSession(dpi=100).create("1.1", {}).attributes)


def test_there_is_one_session_at_a_time(session: FilmSession) -> None:
    with pytest.raises(DuplicateInstance):
        session.create("1.9", {})
    session.delete("1.1")
    session.create("1.9", {})


def test_a_film_names_its_image_boxes(session: FilmSession) -> None:
    answer = add_film(session, FilmOrientation="LANDSCAPE")
    assert answer.status == 0x0000
    assert answer.attributes["ReferencedImageBoxSequence"] == [
        {"ReferencedSOPClassUID": GRAY_BOX, "ReferencedSOPInstanceUID": "1.2.1"},
        {"ReferencedSOPClassUID": GRAY_BOX, "ReferencedSOPInstanceUID": "1.2.2"},
    ]
    assert (answer.attributes["FilmOrientation"], answer.attributes["FilmSizeID"]) == ("LANDSCAPE", "14INX17IN")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"FilmSizeID": "LEGAL"}, OUT_OF_RANGE),
        ({"MaxDensity": "400"}, DENSITY_OUT_OF_RANGE),
        ({"BorderDensity": "GREEN"}, OUT_OF_RANGE),
        ({"RequestedResolutionID": "HIGH"}, OUT_OF_RANGE),
        ({"SmoothingType": "7"}, 0x0000),
        ({"Illumination": "2000"}, 0x0000),
        ({"AnnotationDisplayFormatID": "1"}, UNKNOWN_ATTRIBUTE),
    ],
)
def test_a_film_is_made_with_a_warning_where_it_is_not_what_was_asked_for(session: FilmSession, given: dict[str, str], status: int) -> None:
    answer = add_film(session, **given)
    assert answer.status == status
    assert answer.attributes["FilmSizeID"] == "14INX17IN"
    assert answer.attributes["MaxDensity"] == "320"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, MissingAttribute),
        ({"ImageDisplayFormat": ""}, MissingAttributeValue),
        ({"ImageDisplayFormat": "SLIDE"}, InvalidAttributeValue),
        ({"ImageDisplayFormat": "STANDARD\\1,1"}, MissingAttribute),
        ({"ImageDisplayFormat": "STANDARD\\1,1", "ReferencedFilmSessionSequence": []}, InvalidAttributeValue),
        (
            {"ImageDisplayFormat": "STANDARD\\1,1", "ReferencedFilmSessionSequence": [{"ReferencedSOPInstanceUID": "1.9"}]},
            InvalidAttributeValue,
        ),
    ],
)
def test_a_film_that_cannot_be_made_is_refused(session: FilmSession, given: Header, error: type[RequestError]) -> None:
    with pytest.raises(error):
        session.create_film("1.2", GRAY_BOX, given, ["1.2.1"] * session.count_boxes(given))
    with pytest.raises(NotFound):
        session.print_film("1.2")


def test_densities_that_leave_nothing_between_them_are_refused(session: FilmSession) -> None:
    with pytest.raises(InvalidAttributeValue):
        add_film(session, MinDensity="300", MaxDensity="20")
    add_film(session)
    with pytest.raises(InvalidAttributeValue):
        session.change_film("1.2", {"MaxDensity": "0"})
    with pytest.raises(InvalidAttributeValue):
        put(session, MinDensity="320")


def test_without_a_session_there_is_nothing() -> None:
    session = FilmSession(dpi=100)
    for refused in (session.delete, session.print_all, session.print_film, session.delete_film):
        with pytest.raises(NotFound):
            refused("1.1")
    with pytest.raises(NotFound):
        add_film(session)


def test_only_the_film_that_was_created_last_may_be_touched(session: FilmSession) -> None:
    add_film(session, "1.2")
    add_film(session, "1.3")
    for refused in (session.delete_film, session.print_film):
        with pytest.raises(NotFound):
            refused("1.2")
    with pytest.raises(NotFound):
        put(session, "1.2.1")
    session.delete_film("1.3")
    put(session, "1.2.1")


@pytest.mark.parametrize("missing", [*IMAGE])
def test_an_image_needs_all_that_says_what_it_is(session: FilmSession, missing: str) -> None:
    add_film(session)
    with pytest.raises(MissingAttribute):
        put(session, image={keyword: value for keyword, value in IMAGE.items() if keyword != missing})
    with pytest.raises(MissingAttributeValue):
        put(session, image=IMAGE | {missing: ""})
    assert not session.files


@pytest.mark.parametrize(
    "wrong",
    [
        {"SamplesPerPixel": "3"},
        {"PhotometricInterpretation": "RGB"},
        {"Rows": "0"},
        {"Rows": "11"},
        {"Columns": "70000"},
        {"BitsAllocated": "16"},
        {"BitsAllocated": "32"},
        {"BitsStored": "9"},
        {"HighBit": "8"},
        {"PixelRepresentation": "1"},
        {"Rows": "-1"},
        {"PixelAspectRatio": "1"},
        {"PixelAspectRatio": "0\\1"},
    ],
)
def test_what_is_no_image_is_refused(session: FilmSession, wrong: Header) -> None:
    add_film(session)
    with pytest.raises(InvalidAttributeValue):
        put(session, image=IMAGE | wrong)


@pytest.mark.parametrize("size", ["0", "-1", "nan", "1e300", "wide"])
def test_an_image_size_that_is_none_is_ignored_with_a_warning(session: FilmSession, size: str) -> None:
    add_film(session)
    assert put(session, RequestedImageSize=size).status == OUT_OF_RANGE
    assert put(session, RequestedImageSize="20").status == 0x0000


def test_an_image_of_another_position_or_class_is_refused(session: FilmSession) -> None:
    add_film(session)
    with pytest.raises(InvalidAttributeValue):
        put(session, ImageBoxPosition="2")
    with pytest.raises(ClassConflict):
        session.set_image("1.2.1", COLOR_BOX, {"ImageBoxPosition": "1", "BasicColorImageSequence": [COLOR_IMAGE]}, "f", 600)
    with pytest.raises(NotFound):
        put(session, "1.2.3")


def test_an_image_replaces_the_one_before_and_an_empty_sequence_erases_it(session: FilmSession) -> None:
    add_film(session)
    put(session)
    assert session.files == {"1.2.1.pixels"}
    session.set_image("1.2.1", GRAY_BOX, {"ImageBoxPosition": "1", "BasicGrayscaleImageSequence": [IMAGE]}, "other", 200)
    assert session.files == {"other"}
    assert put(session, image=None).status == 0x0000
    assert session.files == frozenset()


def test_an_image_that_does_not_fit_leaves_everything_as_it_was(session: FilmSession) -> None:
    add_film(session, MagnificationType="NONE")
    put(session)
    with pytest.raises(ImageTooLarge):
        put(session, image=IMAGE | {"Rows": "2000", "Columns": "20"}, length=40_000)
    assert put(session, image=IMAGE | {"Rows": "2000"}, length=40_000, MagnificationType="CUBIC").status == DEMAGNIFIED
    assert session.print_film("1.2").status == DEMAGNIFIED


def test_a_page_has_what_was_told_of_session_film_and_image(session: FilmSession) -> None:
    add_film(session, BorderDensity="WHITE", EmptyImageDensity="BLACK", Trim="YES", MagnificationType="CUBIC", FilmSizeID="8INX10IN")
    put(session, "1.2.2", IMAGE | {"PhotometricInterpretation": "MONOCHROME1"}, Polarity="REVERSE")
    status, (page,) = session.print_film("1.2")
    assert (status, page.width, page.height, page.gray, page.trim, page.is_color, page.dpi) == (0x0000, 800, 1000, 255, True, False, 100)
    assert [(box.gray, box.picture is None) for box in page.boxes] == [(0, True), (0, False)]
    picture = page.boxes[1].picture
    assert picture is not None
    assert (picture.image.file, picture.inverted, picture.resampling) == ("1.2.2.pixels", False, Resampling.BICUBIC)
    assert (picture.black, picture.white) == (0, 255)


def test_a_print_is_a_copy_of_the_films_as_they_are(session: FilmSession) -> None:
    add_film(session)
    put(session)
    printing = session.print_film("1.2")
    session.change_film("1.2", {"Trim": "YES"})
    put(session, image=None)
    assert not printing.pages[0].trim
    assert printing.pages[0].boxes[0].picture is not None


def test_a_film_or_a_session_without_images_is_printed_with_a_warning(session: FilmSession) -> None:
    with pytest.raises(EmptyFilmSession):
        session.print_all("1.1")
    add_film(session, "1.2")
    put(session)
    assert session.print_all("1.1").status == 0x0000
    add_film(session, "1.3")
    assert session.print_film("1.3").status == EMPTY_FILM
    status, pages = session.print_all("1.1")
    assert (status, len(pages)) == (EMPTY_SESSION, 2)


def test_a_color_film_has_color_images(session: FilmSession) -> None:
    add_film(session, box_class=COLOR_BOX, MinDensity="20")
    given: Header = {"ImageBoxPosition": "1", "BasicColorImageSequence": [COLOR_IMAGE]}
    assert session.set_image("1.2.1", COLOR_BOX, given, "f", 600).status == 0x0000
    _, (page,) = session.print_film("1.2")
    picture = page.boxes[0].picture
    assert picture is not None
    assert (page.is_color, picture.image.planar, picture.image.samples, picture.white) == (True, True, 3, 255)
    with pytest.raises(InvalidAttributeValue):
        session.set_image("1.2.1", COLOR_BOX, {"ImageBoxPosition": "1", "BasicColorImageSequence": [COLOR_IMAGE]}, "f", 599)
