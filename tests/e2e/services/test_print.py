"""Films, printed by pynetdicom and by DCMTK (PS3.4 annex H)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.archive import Listener
from tests.support.printing import Pixels, printing
from tests.support.waiting import eventually

NewListener = Callable[..., Listener]


def noise(rows: int, columns: int, *, high: int = 256, color: bool = False) -> Pixels:
    shape = (rows, columns, 3) if color else (rows, columns)
    kind = np.uint8 if high == 256 else np.uint16
    return np.random.default_rng(rows + columns).integers(0, high, size=shape, dtype=kind)


def printed(listener: Listener, *, jobs: int = 1) -> list[Path]:
    """The folders of so many jobs that are printed, in the order in which they were asked for."""
    query = "SELECT path FROM print_job WHERE state = 'printed' ORDER BY requested_at"
    rows = eventually(lambda: found if len(found := listener.sql(query)) >= jobs else None, within=120, what="the prints")
    return [listener.home / "prints" / str(row["path"]) for row in rows]


def page(folder: Path, number: int = 1) -> Pixels:
    with Image.open(folder / f"page-{number}.png") as image:
        return np.asarray(image)


def box(pixels: Pixels, rows: int, columns: int, *, left: float, top: float, width: float, height: float) -> Pixels:
    """The middle of a part of a page, as large as an image."""
    middle = round(pixels.shape[0] * (top + height / 2)), round(pixels.shape[1] * (left + width / 2))
    y, x = middle[0] - rows // 2, middle[1] - columns // 2
    return pixels[y : y + rows, x : x + columns]


def test_a_film_is_on_disk_as_it_was_sent_and_sql_tells_of_it(new_listener: NewListener) -> None:
    listener = new_listener()
    sent = noise(512, 500)
    with printing(listener.scp) as scu:
        assert scu.printer().PrinterStatus == "NORMAL"
        assert scu.open_session(FilmSessionLabel="Thorax", NumberOfCopies=2) == 0x0000
        assert scu.open_film(FilmSizeID="A4", MagnificationType="NONE") == 0x0000
        assert scu.set_image(1, sent) == 0x0000
        assert scu.print_film() == 0x0000
    (folder,) = printed(listener)
    assert sorted(path.name for path in folder.iterdir()) == ["job.pdf", "page-1.png"]
    assert page(folder).shape == (3508, 2480)
