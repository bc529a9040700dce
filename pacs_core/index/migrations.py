"""The operational PostgreSQL tables, as numbered steps that are each applied once.

A step that has been released is never edited; a change is a new step at the end.
"""

from pacs_core.index.postgres import Session

# Beside DuckLake's own tables, which live in LAKE_SCHEMA.
OPERATIONAL_SCHEMA = "pacs"
LAKE_SCHEMA = "lake"

# An arbitrary number that means "one at a time prepares this catalog" to every version of this program.
_PREPARATION_LOCK = 0x70616373_00000001

_STEPS = (
    """
    CREATE TABLE pacs.instance_key (
        "SOPInstanceUID" text PRIMARY KEY,
        "SOPClassUID" text NOT NULL,
        "TransferSyntaxUID" text NOT NULL,
        "SeriesInstanceUID" text NOT NULL,
        "StudyInstanceUID" text NOT NULL,
        tier text NOT NULL,
        path text NOT NULL,
        size bigint NOT NULL,
        sha256 text NOT NULL,
        received_at timestamptz NOT NULL
    )
    """,
    # Who was replaced, so that a replayed record is recognised as one that had its time.
    """
    CREATE TABLE pacs.instance_superseded (
        LIKE pacs.instance_key,
        PRIMARY KEY ("SOPInstanceUID", path, received_at)
    )
    """,
    """
    CREATE TABLE pacs.committer (
        single boolean PRIMARY KEY DEFAULT true CHECK (single),
        holder text NOT NULL
    )
    """,
    "INSERT INTO pacs.committer (holder) VALUES ('')",
    """
    CREATE TABLE pacs.peer (
        ae_title text PRIMARY KEY,
        host text NOT NULL,
        port integer NOT NULL CHECK (port BETWEEN 1 AND 65535)
    )
    """,
    """
    CREATE TABLE pacs.flow_run (
        run_id text PRIMARY KEY,
        flow text NOT NULL,
        state text NOT NULL,
        started_at timestamptz NOT NULL,
        ended_at timestamptz,
        parameters json NOT NULL,
        summary json NOT NULL
    )
    """,
    "CREATE INDEX flow_run_started ON pacs.flow_run (started_at)",
    # Refuses lake commits of whoever no longer is the committer (see commit.py). FOR SHARE makes a takeover wait for
    # a commit that has come this far.
    """
    CREATE FUNCTION pacs.fence_lake() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('application_name') LIKE 'pacs-commit %' THEN
            PERFORM 1 FROM pacs.committer WHERE holder = current_setting('application_name') FOR SHARE;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'another committer has taken over';
            END IF;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    # So that a retrieve finds its instances here, in the order in which a viewer wants them.
    'ALTER TABLE pacs.instance_key ADD COLUMN "InstanceNumber" bigint',
    'ALTER TABLE pacs.instance_superseded ADD COLUMN "InstanceNumber" bigint',
    'CREATE INDEX instance_key_study ON pacs.instance_key ("StudyInstanceUID")',
    'CREATE INDEX instance_key_series ON pacs.instance_key ("SeriesInstanceUID")',
    'CREATE INDEX instance_superseded_study ON pacs.instance_superseded ("StudyInstanceUID")',
)


def lock_preparation(session: Session) -> None:
    """Wait until no other process prepares this catalog; until the transaction's end none will."""
    session.run("SELECT pg_advisory_xact_lock(:lock)", lock=_PREPARATION_LOCK)


def migrate(session: Session) -> None:
    """Bring the operational tables up to date. Idempotent."""
    session.run(f"CREATE SCHEMA IF NOT EXISTS {OPERATIONAL_SCHEMA}")
    session.run(f"CREATE TABLE IF NOT EXISTS {OPERATIONAL_SCHEMA}.migration (step integer PRIMARY KEY, applied_at timestamptz NOT NULL)")
    applied = {row[0] for row in session.run("SELECT step FROM pacs.migration")}
    for number, statement in enumerate(_STEPS, start=1):
        if number not in applied:
            session.run(statement)
            session.run("INSERT INTO pacs.migration VALUES (:step, now())", step=number)


def guard_lake(session: Session) -> None:
    """Put the fence before the lake's commits, once the lake exists: the last act of preparation. Idempotent."""
    if not is_prepared(session):
        session.run(
            "CREATE TRIGGER pacs_fence BEFORE INSERT ON lake.ducklake_snapshot FOR EACH STATEMENT EXECUTE FUNCTION pacs.fence_lake()"
        )


def is_prepared(session: Session) -> bool:
    """Whether the catalog has been prepared to its end, by this version or an earlier one."""
    return bool(session.run("SELECT 1 FROM pg_trigger WHERE tgname = 'pacs_fence' AND tgrelid = to_regclass('lake.ducklake_snapshot')"))
