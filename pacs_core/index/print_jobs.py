"""Print jobs, in PostgreSQL: ports.printing.PrintJobs."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from pydantic import TypeAdapter

from pacs_core.index import locks
from pacs_core.index.postgres import Database
from pacs_core.ports.printing import ClaimedJob, Page, Print, PrintJob

_ENTER = """
    INSERT INTO pacs.print_job (job, calling_ae, "FilmSessionLabel", "NumberOfCopies", "PrintPriority", "MediumType", "FilmDestination",
        "OwnerID", pages, images, content)
    SELECT :job, :calling_ae, :label, :copies, :priority, :medium, :destination, :owner, :pages, :images, :content
    WHERE (SELECT count(*) FROM pacs.print_job WHERE state = 'pending') < :most RETURNING 1
"""
_CLAIM = """
    UPDATE pacs.print_job SET attempts = attempts + 1, next_attempt_at = now() + :lease,
        deaths = deaths + CASE WHEN is_at_work THEN 1 ELSE 0 END, is_at_work = true
    WHERE job = (
        SELECT job FROM pacs.print_job WHERE state = 'pending' AND next_attempt_at <= now()
        ORDER BY CASE "PrintPriority" WHEN 'HIGH' THEN 0 WHEN 'MED' THEN 1 ELSE 2 END, next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING job, calling_ae, "FilmSessionLabel", "NumberOfCopies", "PrintPriority", "MediumType", "FilmDestination", "OwnerID", content,
        requested_at, attempts, deaths, now() - requested_at
"""


class PrintJobs:
    """What is to be printed, and what was. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter(self, job: PrintJob, *, most: int) -> bool:
        """See ports.printing.PrintJobs."""
        with self._database.transaction() as session:
            session.run("SELECT pg_advisory_xact_lock(:lock)", lock=locks.PRINTS)
            entered = session.run(
                _ENTER,
                most=most,
                job=job.uid,
                calling_ae=job.calling_ae,
                label=job.FilmSessionLabel,
                copies=job.NumberOfCopies,
                priority=job.PrintPriority,
                medium=job.MediumType,
                destination=job.FilmDestination,
                owner=job.OwnerID,
                pages=len(job.pages),
                images=sum(box.picture is not None for page in job.pages for box in page.boxes),
                content=_pages().dump_json(job.pages).decode(),
            )
        return bool(entered)

    def claim(self, lease: timedelta) -> ClaimedJob | None:
        """See ports.printing.PrintJobs."""
        with self._database.transaction() as session:
            rows = session.run(_CLAIM, lease=lease)
        if not rows:
            return None
        *told, content, requested_at, attempts, deaths, age = rows[0]
        return ClaimedJob(PrintJob(*(*told, _pages().validate_python(content))), requested_at.astimezone(UTC), attempts, deaths, age)

    def renew(self, uid: str, lease: timedelta) -> None:
        """See ports.printing.PrintJobs."""
        self._run("UPDATE pacs.print_job SET next_attempt_at = now() + :lease WHERE job = :job", job=uid, lease=lease)

    def put_off(self, uid: str, error: str, after: timedelta | None) -> None:
        """See ports.printing.PrintJobs."""
        self._run(
            "UPDATE pacs.print_job SET last_error = :error, is_at_work = false, next_attempt_at = now() + coalesce(:after, interval '0'),"
            " state = CASE WHEN :after IS NULL THEN 'failed' ELSE state END WHERE job = :job AND state = 'pending'",
            job=uid,
            error=error[:500],
            after=after,
        )

    def finish(self, uid: str, *, path: str, study: str) -> None:
        """See ports.printing.PrintJobs."""
        self._run(
            "UPDATE pacs.print_job SET state = 'printed', printed_at = now(), path = :path, \"StudyInstanceUID\" = :study,"
            " last_error = '', content = NULL WHERE job = :job AND state = 'pending'",
            job=uid,
            path=path,
            study=study,
        )

    def pending(self) -> Collection[str]:
        """See ports.printing.PrintJobs."""
        with self._database.transaction() as session:
            return {job for (job,) in session.run("SELECT job FROM pacs.print_job WHERE state = 'pending'")}

    def expired(self, before: datetime) -> Sequence[Print]:
        """See ports.printing.PrintJobs."""
        with self._database.transaction() as session:
            rows = session.run(
                "SELECT job, calling_ae, pages, coalesce(printed_at, requested_at) AS at, path FROM pacs.print_job"
                " WHERE state IN ('printed', 'failed') AND coalesce(printed_at, requested_at) < :before ORDER BY at",
                before=before,
            )
        return [Print(*row) for row in rows]

    def removed(self, uid: str) -> None:
        """See ports.printing.PrintJobs."""
        self._run(
            "UPDATE pacs.print_job SET state = 'removed', \"FilmSessionLabel\" = '', \"OwnerID\" = '', content = NULL"
            " WHERE job = :job AND state IN ('printed', 'failed')",
            job=uid,
        )

    def _run(self, statement: str, **values: object) -> None:
        with self._database.transaction() as session:
            session.run(statement, **values)


@lru_cache(maxsize=1)
def _pages() -> TypeAdapter[tuple[Page, ...]]:
    return TypeAdapter(tuple[Page, ...])
