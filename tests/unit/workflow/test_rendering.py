"""Jobs are rendered once, whatever goes wrong at whatever moment."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image as PillowImage

from pacs_core.archive.captures import Captures
from pacs_core.errors import StorageFull
from pacs_core.ports.printing import Area, Box, ClaimedJob, Image, Page, Picture, Print, PrintJob, Resampling
from pacs_core.storage.print_spool import PrintSpool
from pacs_core.storage.prints import Prints
from pacs_core.workflow.rendering import Renderer
from pacs_core.workflow.retries import Retries
from tests.support.crashing import Crash, Fuse, Fused, every_crash

RETRIES = Retries(timedelta(seconds=1), timedelta(seconds=4), timedelta(days=1))
NOW = datetime(2026, 11, 28, 1, 2, 3, tzinfo=UTC)


class Jobs:
    """ports.printing.PrintJobs in memory."""

    def __init__(self, *jobs: PrintJob) -> None:
        self.waiting = list(jobs)
        self.finished: dict[str, str] = {}
        self.put_offs: list[tuple[str, timedelta | None]] = []
        self.deaths, self.age = 0, timedelta(0)

    def enter(self, job: PrintJob, *, most: int) -> bool:
        raise NotImplementedError

    def claim(self, lease: timedelta) -> ClaimedJob | None:
        return ClaimedJob(self.waiting[0], NOW, 1 + len(self.put_offs), self.deaths, self.age) if self.waiting else None

    def renew(self, uid: str, lease: timedelta) -> None:
        pass

    def put_off(self, uid: str, error: str, after: timedelta | None) -> None:
        self.put_offs.append((error, after))
        if after is None:
            self.waiting = []

    def finish(self, uid: str, *, path: str, study: str) -> None:
        self.waiting = []
        self.finished[uid] = path

    def pending(self) -> Collection[str]:
        return [job.uid for job in self.waiting]

    def expired(self, before: datetime) -> Sequence[Print]:
        raise NotImplementedError

    def removed(self, uid: str) -> None:
        raise NotImplementedError


class Kept:
    """Instead of Captures: what was stored, by UID."""

    def __init__(self) -> None:
        self.instances: dict[str, bytes] = {}
        self.full = False

    def store(self, page: Any, pixels: Any) -> None:
        if self.full:
            raise StorageFull("full")
        content = b"".join(pixels)
        assert self.instances.setdefault(page.SOPInstanceUID, content) == content


class Home:
    """What a renderer works in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = PrintSpool(root / "print", limit=1 << 20)
        self.prints = Prints(root / "prints")
        self.kept = Kept()
        self.pixels = np.random.default_rng(1).integers(0, 256, size=(10, 20), dtype=np.uint8)
        images = self.spool.open()
        name = images.add(self.pixels.tobytes())
        images.hand_over("2.25.1", [name])
        images.close()
        where = Area(5, 5, 20, 10)
        image = Image(name, 10, 20, 1, 8, 8, planar=False, inverted=False, aspect=1)
        picture = Picture(image, Area(0, 0, 20, 10), where, Resampling.NEAREST, inverted=False, black=0, white=255)
        page = Page(30, 20, 72, is_color=False, gray=0, trim=False, boxes=(Box(where, 0, picture),))
        job = PrintJob("2.25.1", "CT1", "", 1, "MED", "PAPER", "MAGAZINE", "", (page, replace(page, gray=7)))
        self.jobs = Jobs(job)

    def renderer(self, *, jobs: Any = None, spool: Any = None, prints: Any = None, kept: Any = None) -> Renderer:
        captures = cast("Captures", kept or self.kept)
        return Renderer(jobs or self.jobs, spool or self.spool, prints or self.prints, captures, RETRIES)

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def check_printed(self) -> None:
        folder = "prints/2026-11-28/2.25.1"
        assert self.files() == [f"{folder}/{name}" for name in ("job.pdf", "page-1.png", "page-2.png")]
        with PillowImage.open(self.root / folder / "page-1.png") as image:
            assert np.array_equal(np.asarray(image)[5:15, 5:25], self.pixels)
        assert self.jobs.finished == {"2.25.1": "2026-11-28/2.25.1"}
        assert len(self.kept.instances) == 2


def test_a_job_becomes_a_folder_and_its_images_go(tmp_path: Path) -> None:
    home = Home(tmp_path)
    renderer = home.renderer()
    assert renderer.render_due()
    home.check_printed()
    assert not renderer.render_due()


def test_a_crash_at_any_moment_leaves_a_job_that_is_rendered_once(tmp_path: Path) -> None:
    for number, fuse in enumerate(every_crash()):
        home = Home(tmp_path / str(number))
        renderer = _fused(home, fuse)
        with suppress(Crash):
            renderer.render_due()
        home.renderer().render_due()
        home.spool.forget("2.25.1")  # what a crash behind `finish` leaves goes after a while, with the sweep
        home.check_printed()


def _fused(home: Home, fuse: Fuse) -> Renderer:
    return home.renderer(
        jobs=Fused(home.jobs, fuse, "claim", "renew", "finish"),
        spool=Fused(home.spool, fuse, "file", "forget"),
        prints=Fused(home.prints, fuse, "place"),
        kept=Fused(home.kept, fuse, "store"),
    )


def test_a_full_disk_puts_a_job_off(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.kept.full = True
    renderer = home.renderer()
    renderer.render_due()
    renderer.render_due()
    assert home.jobs.put_offs == [("full", timedelta(seconds=1)), ("full", timedelta(seconds=2))]
    home.kept.full = False
    renderer.render_due()
    home.check_printed()


def test_a_job_that_can_never_be_rendered_has_failed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.spool.forget("2.25.1")
    assert home.renderer().render_due()
    ((error, after),) = home.jobs.put_offs
    assert "gone from the print spool" in error
    assert after is None


def test_a_job_that_is_given_up_has_failed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.kept.full, home.jobs.age = True, timedelta(days=2)
    home.renderer().render_due()
    assert home.jobs.put_offs == [("full", None)]


def test_a_job_that_processes_die_of_is_given_up(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.jobs.deaths = 5
    assert home.renderer().render_due()
    assert home.jobs.put_offs == [("5 processes ended while they rendered it", None)]
    assert not home.jobs.finished


def test_a_renderer_that_is_stopped_leaves_its_job_to_others_at_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    renderer = home.renderer()
    renderer.close()
    renderer.render_due()
    assert home.jobs.put_offs == [("the archive is stopping", timedelta(seconds=1))]
    home.renderer().render_due()
    home.check_printed()


def test_an_error_of_ours_does_not_keep_the_other_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    monkeypatch.setattr("pacs_core.workflow.rendering.write_document", lambda *_, **__: 1 / 0)
    assert home.renderer().render_due()
    assert home.jobs.put_offs == [("an error of ours: ZeroDivisionError", timedelta(seconds=1))]
