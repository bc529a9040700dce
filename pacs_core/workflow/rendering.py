"""Renders print jobs behind the answer to their request: pages as PNG, the job as PDF and, where wanted, instances of the archive.

Everything may be repeated: what a killed process was at is claimed by another, makes the same files and the same instances, and the
folder of a job appears once, whole.
"""

import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from pacs_core.archive.captures import Captures
from pacs_core.dicom.secondary_capture import CapturedPage, study_of
from pacs_core.errors import PacsError, UnavailableError
from pacs_core.imaging.pages import RenderedPage, render
from pacs_core.imaging.pdf import write_document
from pacs_core.ports.printing import ClaimedJob, PrintJobs
from pacs_core.storage.files import translated
from pacs_core.storage.print_spool import PrintSpool
from pacs_core.storage.prints import Prints
from pacs_core.workflow.retries import Retries
from pacs_core.workflow.worker import Worker

log = structlog.get_logger(__name__)

_LEASE = timedelta(seconds=30)  # after which another process takes up what this one was at; renewed with each page
_DEADLY = 5  # processes that died while they rendered a job: the next one would too
_SWEPT_EVERY = 600.0  # seconds


class Renderer(Worker):
    """A thread that renders one job after the other, a page at a time. Several processes may each have one.

    Args:
        jobs: what is to be printed.
        spool: where its images are.
        prints: where it goes.
        captures: stores each page; None where that is not wanted.
        retries: when a job is tried again that could not be rendered; given up, it has failed.
    """

    def __init__(self, jobs: PrintJobs, spool: PrintSpool, prints: Prints, captures: Captures | None, retries: Retries) -> None:
        self._jobs = jobs
        self._spool = spool
        self._prints = prints
        self._captures = captures
        self._retries = retries
        self._swept = float("-inf")
        super().__init__(self.render_due, name="renderer")

    def render_due(self) -> bool:
        """Render a job that is due; whether there was one."""
        self._sweep()
        claimed = self._jobs.claim(_LEASE)
        if claimed is None:
            return False
        if claimed.deaths >= _DEADLY:
            log.error("print_given_up", job=claimed.job.uid, deaths=claimed.deaths)
            self._jobs.put_off(claimed.job.uid, f"{claimed.deaths} processes ended while they rendered it", None)
            return True
        try:
            self._render(claimed)
        except PacsError as exc:
            self._put_off(claimed, exc, str(exc))
        except Exception as exc:  # a task ends here: a job that cannot be rendered must not keep the others
            log.exception("print_crashed", job=claimed.job.uid)
            self._put_off(claimed, exc, f"an error of ours: {type(exc).__name__}")
        return True

    def _render(self, claimed: ClaimedJob) -> None:
        job, path = claimed.job, f"{claimed.requested_at:%Y-%m-%d}/{claimed.job.uid}"
        place = self._prints.workplace()
        try:
            made = [self._render_page(claimed, number, place.path) for number in range(1, len(job.pages) + 1)]
            with translated("writing a print"), (place.path / "job.pdf").open("wb") as file:
                write_document(file, made, dpi=[page.dpi for page in job.pages])
            self._jobs.renew(job.uid, _LEASE)
            self._prints.place(place.path, path)
        finally:
            place.close()
        self._jobs.finish(job.uid, path=path, study=study_of(job.uid) if self._captures else "")
        self._spool.forget(job.uid)
        log.info("printed", job=job.uid, calling=job.calling_ae, pages=len(job.pages), attempts=claimed.attempts)

    def _render_page(self, claimed: ClaimedJob, number: int, directory: Path) -> Path:
        if self.is_stopping:
            raise UnavailableError("the archive is stopping")
        self._prints.check_room()
        rendered = render(claimed.job.pages[number - 1], partial(self._spool.file, claimed.job.uid))
        path = directory / f"page-{number}.png"
        with translated("writing a print"), path.open("wb") as file:
            rendered.save(file)
        self._capture(claimed, number, rendered)
        self._jobs.renew(claimed.job.uid, _LEASE)
        return path

    def _capture(self, claimed: ClaimedJob, number: int, rendered: RenderedPage) -> None:
        if self._captures is None:
            return
        job, page = claimed.job, claimed.job.pages[number - 1]
        captured = CapturedPage(
            job=job.uid,
            number=number,
            calling_ae=job.calling_ae,
            label=job.FilmSessionLabel,
            requested_at=claimed.requested_at,
            rows=page.height,
            columns=page.width,
            is_color=page.is_color,
        )
        self._captures.store(captured, rendered.rows())

    def _put_off(self, claimed: ClaimedJob, exc: Exception, reason: str) -> None:
        may_help = not isinstance(exc, PacsError) or exc.retryable
        after = self._retries.after(claimed.attempts, claimed.age) if may_help else None
        log.warning("not_printed", job=claimed.job.uid, reason=reason, is_given_up=after is None)
        self._jobs.put_off(claimed.job.uid, reason, after)

    def _sweep(self) -> None:
        if time.monotonic() - self._swept < _SWEPT_EVERY:
            return
        removed = self._spool.sweep(self._jobs.pending) + self._prints.sweep()
        self._swept = time.monotonic()
        if removed:
            log.info("print_spool_swept", directories=removed)
