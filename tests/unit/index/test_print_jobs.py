"""Print jobs in a real PostgreSQL."""

from datetime import UTC, datetime, timedelta

import pytest

from pacs_core.index.postgres import Database
from pacs_core.index.print_jobs import PrintJobs
from pacs_core.ports.printing import Area, Box, Image, Page, Picture, PrintJob, Resampling

LEASE = timedelta(seconds=30)


def job(uid: str, *, priority: str = "MED") -> PrintJob:
    image = Image("1.pixels", 10, 20, 1, 16, 12, planar=False, inverted=True, aspect=0.5)
    area = Area(1, 2, 3, 4)
    picture = Picture(image, area, area, Resampling.BICUBIC, inverted=True, black=0, white=250)
    page = Page(100, 200, 72, is_color=False, gray=5, trim=True, boxes=(Box(area, 6, picture), Box(area, 6, None)))
    return PrintJob(uid, "CT1", "Müller", 2, priority, "PAPER", "MAGAZINE", "", (page, page))


@pytest.fixture
def jobs(database: Database) -> PrintJobs:
    return PrintJobs(database)


def test_a_job_is_claimed_as_it_was_entered_by_one_at_a_time(jobs: PrintJobs) -> None:
    assert jobs.enter(job("1.1"), most=10)
    claimed = jobs.claim(LEASE)
    assert claimed is not None
    assert (claimed.job, claimed.attempts) == (job("1.1"), 1)
    assert claimed.requested_at.tzinfo is UTC
    assert jobs.claim(LEASE) is None


def test_a_job_whose_renderer_is_gone_is_claimed_again(jobs: PrintJobs) -> None:
    jobs.enter(job("1.1"), most=10)
    jobs.claim(timedelta(0))
    again = jobs.claim(LEASE)
    assert again is not None
    assert again.attempts == 2
    jobs.renew("1.1", timedelta(0))
    assert jobs.claim(LEASE) is not None


def test_it_is_known_how_many_have_died_of_a_job(jobs: PrintJobs) -> None:
    jobs.enter(job("1.1"), most=10)
    deaths = [claimed.deaths for _ in range(3) if (claimed := jobs.claim(timedelta(0)))]
    jobs.put_off("1.1", "full", timedelta(0))
    claimed = jobs.claim(timedelta(0))
    assert claimed is not None
    assert (deaths, claimed.deaths) == ([0, 1, 2], 2)


def test_urgent_jobs_go_first(jobs: PrintJobs) -> None:
    for number, priority in enumerate(("LOW", "MED", "HIGH", "MED")):
        jobs.enter(job(f"1.{number}", priority=priority), most=10)
    order = [claimed.job.uid for _ in range(4) if (claimed := jobs.claim(LEASE))]
    assert order == ["1.2", "1.1", "1.3", "1.0"]


def test_no_more_wait_than_may(jobs: PrintJobs) -> None:
    assert [jobs.enter(job(f"1.{number}"), most=2) for number in range(3)] == [True, True, False]
    jobs.finish("1.0", path="p", study="")
    assert jobs.enter(job("1.3"), most=2)
    assert jobs.pending() == {"1.1", "1.3"}


def test_what_is_printed_stays_so_until_it_expires(jobs: PrintJobs, database: Database) -> None:
    jobs.enter(job("1.1"), most=10)
    jobs.finish("1.1", path="2026-11-28/1.1", study="1.9")
    jobs.finish("1.1", path="elsewhere", study="")
    jobs.put_off("1.1", "late", None)
    now = datetime.now(UTC)
    assert jobs.claim(LEASE) is None
    assert jobs.expired(now - timedelta(days=1)) == []
    (expired,) = jobs.expired(now + timedelta(days=1))
    assert (expired.uid, expired.calling_ae, expired.pages, expired.path) == ("1.1", "CT1", 2, "2026-11-28/1.1")
    jobs.removed("1.1")
    assert jobs.expired(now + timedelta(days=1)) == []
    with database.transaction() as session:
        rows = session.run('SELECT state, "FilmSessionLabel", content, "StudyInstanceUID", pages, images FROM pacs.print_job')
    assert list(rows) == [["removed", "", None, "1.9", 2, 2]]


def test_what_cannot_be_rendered_is_put_off_and_given_up_at_last(jobs: PrintJobs, database: Database) -> None:
    jobs.enter(job("1.1"), most=10)
    jobs.claim(timedelta(0))
    jobs.put_off("1.1", "full", timedelta(hours=1))
    assert jobs.claim(LEASE) is None
    assert jobs.pending() == {"1.1"}
    jobs.put_off("1.1", "full" * 500, None)
    assert jobs.pending() == set()
    with database.transaction() as session:
        ((state, error),) = session.run("SELECT state, last_error FROM pacs.print_job")
    assert (state, len(error)) == ("failed", 500)
    (expired,) = jobs.expired(datetime.now(UTC) + timedelta(days=1))
    assert (expired.uid, expired.path) == ("1.1", "")
    jobs.removed("1.1")
    with database.transaction() as session:
        assert list(session.run('SELECT state, "FilmSessionLabel", content FROM pacs.print_job')) == [["removed", "", None]]
