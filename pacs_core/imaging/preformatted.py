"""Images of DICOM files made ready to be printed: what a viewer shows first of them, as 8 bits a sample (PS3.4 H.3.2.1)."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array

from pacs_core.errors import TranscodingError

_LUMINANCE = (0.299, 0.587, 0.114)  # PS3.3 C.7.6.3.1.2

_Pixels = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Preformatted:
    """An image to be printed.

    Attributes:
        pixels: row by row; of a color image the red ones, then the green ones, then the blue ones.
        is_inverted: whether its lowest value is white.
        aspect: Pixel Aspect Ratio, vertical and horizontal.
    """

    rows: int
    columns: int
    pixels: bytes
    is_color: bool
    is_inverted: bool
    aspect: tuple[int, int]


def preformatted(path: Path, *, color: bool) -> Preformatted:
    """The image of a DICOM file, the first one where it has several; gray or color, as is asked for.

    TranscodingError for a file that has no image, or none that can be decoded; OSError.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values elsewhere in the data set are none of a decoder's business
        try:
            ds = dcmread(path)
            shown = _color(ds) if ds.SamplesPerPixel == 3 or "RedPaletteColorLookupTableData" in ds else _gray(ds)
        except OSError:
            raise
        except Exception as exc:  # decoders are third parties of third parties, and raise whatever they like
            raise TranscodingError(f"there is no image in it that can be printed: {type(exc).__name__}") from exc
    if color and shown.ndim == 2:
        shown = np.repeat(shown[..., np.newaxis], 3, axis=2)
    elif not color and shown.ndim == 3:
        shown = shown @ np.array(_LUMINANCE)
    values = np.rint(shown).astype(np.uint8)
    is_inverted = ds.PhotometricInterpretation == "MONOCHROME1"
    if is_inverted and color:
        values, is_inverted = 255 - values, False
    content = (np.moveaxis(values, -1, 0) if color else values).tobytes()
    return Preformatted(values.shape[0], values.shape[1], content, color, is_inverted, _aspect(ds))


def _gray(ds: Dataset) -> _Pixels:
    """0 to 255, by the first VOI LUT or window of the image; where it has none, from its darkest to its brightest value."""
    values = apply_modality_lut(pixel_array(ds, index=0), ds).astype(np.float64)
    if ds.get("VOILUTSequence"):
        looked_up: _Pixels = apply_voi(values.astype(np.int64), ds).astype(np.float64)
        return looked_up * (255 / ((1 << int(ds.VOILUTSequence[0].LUTDescriptor[2])) - 1))
    if ds.get("WindowWidth") and ds.get("WindowCenter") is not None:
        return _windowed(values, _first(ds.WindowCenter), _first(ds.WindowWidth))
    low, high = float(values.min()), float(values.max())
    return (values - low) * 255 / max(high - low, 1)


def _windowed(values: _Pixels, center: float, width: float) -> _Pixels:
    """PS3.3 C.11.2.1.2.1."""
    shares: _Pixels = np.clip((values - (center - 0.5)) / max(width - 1, 1) + 0.5, 0, 1)
    return shares * 255


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, MultiValue) else value)


def _color(ds: Dataset) -> _Pixels:
    values = pixel_array(ds, index=0)
    if values.ndim == 2:
        values = apply_color_lut(values, ds)
    return values.astype(np.float64) * (255 / ((1 << 8 * values.dtype.itemsize) - 1))


def _aspect(ds: Dataset) -> tuple[int, int]:
    """PixelAspectRatio, or what the spacing between the pixels comes to."""
    if ratio := ds.get("PixelAspectRatio"):
        return int(ratio[0]), int(ratio[1])
    spacing = ds.get("PixelSpacing") or ds.get("ImagerPixelSpacing") or (1, 1)
    vertical, horizontal = (round(float(each) * 1000) for each in spacing)
    return (vertical, horizontal) if vertical > 0 < horizontal and vertical != horizontal else (1, 1)
