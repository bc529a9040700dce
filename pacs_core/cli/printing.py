"""print: DICOM images on a printer, as a workstation would."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pacs_core.cli import output
from pacs_core.cli.errors import Failed
from pacs_core.cli.network import Target, files_below, printable
from pacs_core.dimse.negotiation import LITTLE_ENDIAN, Proposal
from pacs_core.dimse.printing import Wish, print_films
from pacs_core.errors import ConfigurationError, PacsError
from pacs_core.imaging.preformatted import Preformatted, preformatted
from pacs_core.workflow.printing import META_COLOR, META_GRAY


def layout(text: str) -> tuple[int, int]:
    """Columns and rows of `2x3`. ConfigurationError."""
    columns, _, rows = text.lower().partition("x")
    if not (columns.isdecimal() and rows.isdecimal() and 0 < int(columns) <= 10 and 0 < int(rows) <= 10):
        raise ConfigurationError(f"--layout {text}: write it as COLUMNSxROWS, such as 2x3, with at most ten of each")
    return int(columns), int(rows)


def print_files(to: Target, paths: Sequence[Path], wish: Wish, *, color: bool) -> None:
    """Print every image below the paths. Failed if one of them cannot be; the others are."""
    images = _Images(paths, color=color)
    films = 0
    with to.association([Proposal(META_COLOR if color else META_GRAY, LITTLE_ENDIAN)]) as assoc:
        for films, film in enumerate(print_films(assoc, images, wish, color=color), 1):
            warned = f", with {', '.join(f'{status:04X}' for status in sorted(set(film.warnings)))}" if film.warnings else ""
            output.line(f"film {films}: {film.images} images{warned}")
    output.line(f"{films} films printed on {to.peer.ae_title}" + (f"; {images.failures} files could not be" if images.failures else ""))
    if images.failures:
        raise Failed


class _Images:
    """The images of files, one at a time; those that are none are told of and counted."""

    def __init__(self, paths: Sequence[Path], *, color: bool) -> None:
        self._paths = paths
        self._color = color
        self.failures = 0

    def __iter__(self) -> Iterator[Preformatted]:
        for path in files_below(self._paths):
            try:
                yield preformatted(path, color=self._color)
            except (PacsError, OSError) as exc:
                self.failures += 1
                output.line(f"{printable(path)}: not printed: {exc}")
