"""Renders pages: the images of a film, each in its place, as 8 bits a sample.

One page and one image are in memory at a time; the image's pixels come from their file.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw

from pacs_core.errors import ObjectMissing, StorageUnavailable
from pacs_core.ports.printing import Area, Image, Page, Picture, Resampling

_MM_PER_INCH = 25.4
_LINE = 0.2  # mm: how wide a trim line is
_ROWS = 64  # that are given out at once

_RESAMPLINGS = {
    Resampling.NEAREST: PillowImage.Resampling.NEAREST,
    Resampling.BILINEAR: PillowImage.Resampling.BILINEAR,
    Resampling.BICUBIC: PillowImage.Resampling.BICUBIC,
}


class RenderedPage:
    """A page as pixels."""

    def __init__(self, page: Page, canvas: PillowImage.Image) -> None:
        self._page = page
        self._canvas = canvas

    def save(self, file: BinaryIO) -> None:
        """As a PNG file, without loss. OSError."""
        self._canvas.save(file, "PNG", dpi=(self._page.dpi, self._page.dpi))

    def rows(self) -> Iterator[bytes]:
        """The pixels from the top, a number of rows at a time."""
        for top in range(0, self._page.height, _ROWS):
            yield self._canvas.crop((0, top, self._page.width, min(top + _ROWS, self._page.height))).tobytes()


def render(page: Page, locate: Callable[[str], Path]) -> RenderedPage:
    """A page with its images, whose files `locate` finds. ObjectMissing, StorageUnavailable."""
    canvas = PillowImage.new("RGB" if page.is_color else "L", (page.width, page.height), _color(page, page.gray))
    for box in page.boxes:
        canvas.paste(_color(page, box.gray), _corners(box.area))
        if box.picture is not None:
            picture = box.picture
            canvas.paste(_shown(picture, locate), (picture.target.left, picture.target.top))
        if page.trim:
            _trim(canvas, page, box.area)
    return RenderedPage(page, canvas)


def _color(page: Page, gray: int) -> int | tuple[int, int, int]:
    return (gray, gray, gray) if page.is_color else gray


def _corners(area: Area) -> tuple[int, int, int, int]:
    return area.left, area.top, area.left + area.width, area.top + area.height


def _trim(canvas: PillowImage.Image, page: Page, area: Area) -> None:
    """A line around a box, outside of it, that stands out from what is around."""
    width = max(round(_LINE * page.dpi / _MM_PER_INCH), 1)
    left, top, right, bottom = _corners(area)
    around = left - width, top - width, right + width - 1, bottom + width - 1
    ImageDraw.Draw(canvas).rectangle(around, outline=_color(page, 0 if page.gray > 127 else 255), width=width)


def _shown(picture: Picture, locate: Callable[[str], Path]) -> PillowImage.Image:
    """What is seen of an image, in the size in which it is seen."""
    crop, target, name = picture.crop, picture.target, picture.image.file
    try:
        pixels = _pixels(picture.image, locate(name))
        grays = _grays(picture, locate)
    except FileNotFoundError as exc:
        raise ObjectMissing(f"the image {name} is gone from the print spool") from exc
    except (OSError, ValueError) as exc:
        raise StorageUnavailable(f"the image {name} cannot be read from the print spool") from exc
    part = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    image = PillowImage.fromarray(grays[part & (1 << picture.image.bits_stored) - 1])
    if image.size == (target.width, target.height):
        return image
    return image.resize((target.width, target.height), _RESAMPLINGS[picture.resampling])


def _pixels(image: Image, path: Path) -> npt.NDArray[np.unsignedinteger]:
    """The values as they were sent: rows, columns and, of RGB, samples; from the file as they are needed."""
    shape: tuple[int, ...] = (image.rows, image.columns)
    if image.samples > 1:
        shape = (image.samples, *shape) if image.planar else (*shape, image.samples)
    values = np.memmap(path, dtype="<u2" if image.bits_allocated == 16 else np.uint8, mode="r", shape=shape)
    return np.moveaxis(values, 0, -1) if image.samples > 1 and image.planar else values


def _grays(picture: Picture, locate: Callable[[str], Path]) -> npt.NDArray[np.uint8]:
    """What becomes of each stored value: P-values are spread evenly between black and white (PS3.14)."""
    shares = np.linspace(0, 1, 1 << picture.image.bits_stored)
    if picture.curve:
        shares = np.fromfile(locate(picture.curve), np.uint8) / 255
    if picture.inverted:
        shares = shares[::-1]
    return np.rint(picture.black + (picture.white - picture.black) * shares).astype(np.uint8)
