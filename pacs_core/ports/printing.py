"""What printing asks of the index, and what it hands to the one who renders: pages on which every pixel has its place.

Every method of PrintJobs may raise IndexUnavailable. Each is one transaction.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol


class Resampling(StrEnum):
    """How an image gets another size."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle of pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Image:
    """An image as it was sent.

    Attributes:
        file: where its pixels are, among those of its association or job: little endian, row by row.
        samples: 1 for gray, 3 for RGB.
        planar: whether the three planes follow each other.
        inverted: whether its lowest value is white.
        aspect: how much higher than wide its pixels are.
    """

    file: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    planar: bool
    inverted: bool
    aspect: float


@dataclass(frozen=True, slots=True)
class Picture:
    """An image on a page.

    Attributes:
        crop: what is shown of it.
        target: where, within the page.
        black, white: the gray of the page, from 0 to 255, that its lowest and its highest P-value become.
        curve: the file of the P-values that its values become, a byte each; "" where each value is its own.
    """

    image: Image
    crop: Area
    target: Area
    resampling: Resampling
    inverted: bool
    black: int
    white: int
    curve: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """Where an image may be on a page; `gray` is what is seen around it, and where there is none."""

    area: Area
    gray: int
    picture: Picture | None


@dataclass(frozen=True, slots=True)
class Page:
    """One film, ready to be rendered.

    Attributes:
        dpi: pixels an inch.
        gray: around and between the boxes, from 0 (black) to 255.
        trim: whether a line is drawn around each box.
    """

    width: int
    height: int
    dpi: int
    is_color: bool
    gray: int
    trim: bool
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class PrintJob:
    """What was asked to be printed.

    Attributes:
        uid: its own, and the name of everything that comes of it.
        FilmSessionLabel: as the requestor says, which may well be a patient's name.
    """

    uid: str
    calling_ae: str
    FilmSessionLabel: str
    NumberOfCopies: int
    PrintPriority: str
    MediumType: str
    FilmDestination: str
    OwnerID: str
    pages: tuple[Page, ...]


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that is ours to render for a while.

    Attributes:
        requested_at: when it was entered, UTC.
        attempts: this one included.
        deaths: attempts of processes that said nothing of what came of it.
        age: since it was entered.
    """

    job: PrintJob
    requested_at: datetime
    attempts: int
    deaths: int
    age: timedelta


@dataclass(frozen=True, slots=True)
class Print:
    """A job that is over.

    Attributes:
        ended_at: when it was rendered; of one that has failed, when it was entered.
        path: where it is, below the folder of all prints; "" of one that has failed.
    """

    uid: str
    calling_ae: str
    pages: int
    ended_at: datetime
    path: str


class PrintJobs(Protocol):
    """Print jobs. Any number of processes may share them."""

    def enter(self, job: PrintJob, *, most: int) -> bool:
        """Keep a job; False if that many are waiting already."""

    def claim(self, lease: timedelta) -> ClaimedJob | None:
        """A job that is due, urgent ones first, ours for so long; None if there is none."""

    def renew(self, uid: str, lease: timedelta) -> None:
        """It is ours for so long from now on."""

    def put_off(self, uid: str, error: str, after: timedelta | None) -> None:
        """It could not be rendered; it is tried again after a while or, with None, never: it has failed."""

    def finish(self, uid: str, *, path: str, study: str) -> None:
        """It is rendered, and lies there. Its pages are stored as instances of a study, or nowhere: "". Repeatable."""

    def pending(self) -> Collection[str]:
        """The UIDs of those that are still to be rendered."""

    def expired(self, before: datetime) -> Sequence[Print]:
        """Those that were rendered before an instant and are still kept, and those that have failed, oldest first."""

    def removed(self, uid: str) -> None:
        """What came of it is gone; so is what its requestor called it. Repeatable."""
