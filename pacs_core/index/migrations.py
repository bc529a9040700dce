"""The operational PostgreSQL tables, as numbered steps that are each applied once.

A step that has been released is never edited; a change is a new step at the end.
"""

from pacs_core.index import locks
from pacs_core.index.postgres import Session

# Beside DuckLake's own tables, which live in LAKE_SCHEMA.
OPERATIONAL_SCHEMA = "pacs"
LAKE_SCHEMA = "lake"


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
    # Objects beside the one that instance_key names. A row is there before the object and after it: what a killed run leaves is known.
    """
    CREATE TABLE pacs.instance_copy (
        "SOPInstanceUID" text NOT NULL,
        "SeriesInstanceUID" text NOT NULL,
        "StudyInstanceUID" text NOT NULL,
        tier text NOT NULL,
        path text NOT NULL,
        member text NOT NULL DEFAULT '',
        size bigint NOT NULL,
        sha256 text NOT NULL,
        state text NOT NULL CHECK (state IN ('arriving', 'held', 'leaving')),
        since timestamptz NOT NULL DEFAULT now(),
        verified_at timestamptz,
        run_id text NOT NULL,
        PRIMARY KEY ("SOPInstanceUID", tier, path, member)
    )
    """,
    'CREATE INDEX instance_copy_study ON pacs.instance_copy ("StudyInstanceUID")',
    "CREATE INDEX instance_copy_moving ON pacs.instance_copy (state) WHERE state <> 'held'",
    # What the flows did to which study.
    """
    CREATE TABLE pacs.study_event (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        happened_at timestamptz NOT NULL DEFAULT now(),
        "StudyInstanceUID" text NOT NULL,
        action text NOT NULL,
        from_tier text NOT NULL,
        to_tier text NOT NULL,
        instances bigint NOT NULL,
        bytes bigint NOT NULL,
        flow text NOT NULL,
        policy text NOT NULL,
        run_id text NOT NULL
    )
    """,
    'CREATE INDEX study_event_study ON pacs.study_event ("StudyInstanceUID")',
    "CREATE INDEX study_event_run ON pacs.study_event (run_id)",
    'CREATE TABLE pacs.study_access ("StudyInstanceUID" text PRIMARY KEY, accessed_at timestamptz NOT NULL)',
    """
    CREATE TABLE pacs.hold (
        "StudyInstanceUID" text PRIMARY KEY,
        reason text NOT NULL,
        placed_by text NOT NULL,
        placed_at timestamptz NOT NULL DEFAULT now(),
        until timestamptz
    )
    """,
    # What retention has taken out of the index. Until it is destroyed it can be brought back.
    """
    CREATE TABLE pacs.removed_instance (
        "SOPInstanceUID" text NOT NULL,
        "SeriesInstanceUID" text NOT NULL,
        "StudyInstanceUID" text NOT NULL,
        tier text NOT NULL,
        path text NOT NULL,
        size bigint NOT NULL,
        sha256 text NOT NULL,
        state text NOT NULL CHECK (state IN ('leaving', 'quarantined', 'restored', 'destroyed')),
        removed_at timestamptz NOT NULL,
        destroy_after timestamptz NOT NULL,
        policy text NOT NULL,
        run_id text NOT NULL,
        PRIMARY KEY ("SOPInstanceUID", removed_at)
    )
    """,
    "CREATE INDEX removed_instance_sha256 ON pacs.removed_instance (sha256)",
    'CREATE INDEX removed_instance_study ON pacs.removed_instance ("StudyInstanceUID")',
    # Plans that a dry run has made, for a real run to follow.
    """
    CREATE TABLE pacs.plan (
        run_id text PRIMARY KEY,
        flow text NOT NULL,
        made_at timestamptz NOT NULL DEFAULT now(),
        plan json NOT NULL
    )
    """,
    # Studies that somebody wants and whose provider has to be asked first.
    """
    CREATE TABLE pacs.recall (
        "StudyInstanceUID" text PRIMARY KEY,
        wanted_at timestamptz NOT NULL DEFAULT now(),
        asked_at timestamptz,
        available_at timestamptz
    )
    """,
    """
    ALTER TABLE pacs.peer
        ADD COLUMN tls boolean NOT NULL DEFAULT false,
        ADD COLUMN permissions text[] NOT NULL DEFAULT '{}',
        ADD COLUMN transfer_syntaxes text[] NOT NULL DEFAULT '{}'
    """,
    # What each association did; the flow maintain forgets old ones.
    """
    CREATE TABLE pacs.association (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        association text NOT NULL,
        calling_ae text NOT NULL,
        called_ae text NOT NULL,
        address text NOT NULL,
        implementation text NOT NULL,
        "user" text NOT NULL,
        user_type text NOT NULL,
        opened_at timestamptz NOT NULL,
        closed_at timestamptz NOT NULL,
        ended text NOT NULL,
        bytes bigint NOT NULL,
        operations json NOT NULL
    )
    """,
    "CREATE INDEX association_closed ON pacs.association (closed_at)",
    # One scheduled procedure step each. The columns are for SQL and to find items by; the header is what is answered.
    """
    CREATE TABLE pacs.worklist_item (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        "PatientID" text NOT NULL,
        "PatientName" text NOT NULL,
        "AccessionNumber" text NOT NULL,
        "StudyInstanceUID" text NOT NULL,
        "RequestedProcedureID" text NOT NULL,
        "ScheduledProcedureStepID" text NOT NULL,
        "ScheduledStationAETitle" text NOT NULL,
        "Modality" text NOT NULL,
        scheduled_at timestamp NOT NULL,
        state text NOT NULL DEFAULT 'SCHEDULED'
            CHECK (state IN ('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'DISCONTINUED', 'CANCELLED')),
        header json NOT NULL,
        source text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE ("StudyInstanceUID", "ScheduledProcedureStepID")
    )
    """,
    "CREATE INDEX worklist_item_scheduled ON pacs.worklist_item (scheduled_at)",
    'CREATE INDEX worklist_item_patient ON pacs.worklist_item ("PatientID")',
    'CREATE INDEX worklist_item_accession ON pacs.worklist_item ("AccessionNumber")',
    # Who asked for the worklist, written behind the answer.
    """
    CREATE TABLE pacs.worklist_query (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        asked_at timestamptz NOT NULL,
        calling_ae text NOT NULL,
        status text NOT NULL,
        matches integer NOT NULL,
        milliseconds double precision NOT NULL
    )
    """,
    "CREATE INDEX worklist_query_asked ON pacs.worklist_query (asked_at)",
    # What modalities did, as they told it (DICOM JSON Model), with what SQL asks for in columns.
    """
    CREATE TABLE pacs.performed_step (
        "SOPInstanceUID" text PRIMARY KEY,
        state text NOT NULL CHECK (state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')),
        "PerformedProcedureStepID" text NOT NULL,
        "PerformedStationAETitle" text NOT NULL,
        "Modality" text NOT NULL,
        "PatientID" text NOT NULL,
        started_at timestamp,
        ended_at timestamp,
        calling_ae text NOT NULL,
        attributes json NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX performed_step_created ON pacs.performed_step (created_at)",
    """
    CREATE TABLE pacs.performed_step_request (
        "SOPInstanceUID" text NOT NULL REFERENCES pacs.performed_step ON DELETE CASCADE,
        "StudyInstanceUID" text NOT NULL,
        "ScheduledProcedureStepID" text NOT NULL,
        "AccessionNumber" text NOT NULL
    )
    """,
    'CREATE INDEX performed_step_request_step ON pacs.performed_step_request ("SOPInstanceUID")',
    'CREATE INDEX performed_step_request_study ON pacs.performed_step_request ("StudyInstanceUID")',
    """
    CREATE TABLE pacs.performed_series (
        "SOPInstanceUID" text NOT NULL REFERENCES pacs.performed_step ON DELETE CASCADE,
        "SeriesInstanceUID" text NOT NULL,
        "ProtocolName" text NOT NULL,
        "SeriesDescription" text NOT NULL,
        "PerformingPhysicianName" text NOT NULL,
        "OperatorsName" text NOT NULL,
        "RetrieveAETitle" text NOT NULL,
        instances integer NOT NULL
    )
    """,
    'CREATE INDEX performed_series_step ON pacs.performed_series ("SOPInstanceUID")',
    'CREATE INDEX performed_series_series ON pacs.performed_series ("SeriesInstanceUID")',
    """
    CREATE TABLE pacs.performed_step_event (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        "SOPInstanceUID" text NOT NULL REFERENCES pacs.performed_step ON DELETE CASCADE,
        happened_at timestamptz NOT NULL DEFAULT now(),
        operation text NOT NULL,
        calling_ae text NOT NULL,
        from_state text,
        to_state text NOT NULL
    )
    """,
    'CREATE INDEX performed_step_event_step ON pacs.performed_step_event ("SOPInstanceUID")',
    # Event reports that are owed to peers. A row is claimed for a time, so that what a killed process was at is taken up by another.
    """
    CREATE TABLE pacs.event_report (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        peer text NOT NULL,
        "SOPClassUID" text NOT NULL,
        context_class text NOT NULL,
        "SOPInstanceUID" text NOT NULL,
        event_type integer NOT NULL,
        attributes json NOT NULL,
        state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'delivered', 'given up')),
        created_at timestamptz NOT NULL DEFAULT now(),
        delivered_at timestamptz,
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        last_error text NOT NULL DEFAULT ''
    )
    """,
    "CREATE INDEX event_report_due ON pacs.event_report (next_attempt_at) WHERE state = 'due'",
    # Storage commitment: what peers have asked of us (scp) and we of them (scu).
    """
    CREATE TABLE pacs.commitment (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        role text NOT NULL CHECK (role IN ('scp', 'scu')),
        peer text NOT NULL,
        "TransactionUID" text NOT NULL,
        is_repeated boolean NOT NULL DEFAULT false,
        state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'answered')),
        instances integer NOT NULL,
        failed integer,
        digest text NOT NULL,
        requested_at timestamptz NOT NULL DEFAULT now(),
        answered_at timestamptz,
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        last_error text NOT NULL DEFAULT '',
        report bigint REFERENCES pacs.event_report ON DELETE SET NULL
    )
    """,
    'CREATE UNIQUE INDEX commitment_transaction ON pacs.commitment (role, peer, "TransactionUID") WHERE NOT is_repeated',
    "CREATE INDEX commitment_due ON pacs.commitment (next_attempt_at) WHERE state = 'requested' AND role = 'scp'",
    """
    CREATE TABLE pacs.commitment_instance (
        commitment bigint NOT NULL REFERENCES pacs.commitment ON DELETE CASCADE,
        position integer NOT NULL,
        "SOPClassUID" text NOT NULL,
        "SOPInstanceUID" text NOT NULL,
        result text NOT NULL DEFAULT 'pending' CHECK (result IN ('pending', 'committed', 'failed')),
        failure_reason text,
        PRIMARY KEY (commitment, position)
    )
    """,
    'CREATE INDEX commitment_instance_uid ON pacs.commitment_instance ("SOPInstanceUID")',
    # Patients who are expected: one row for each of them and day.
    """
    CREATE TABLE pacs.prefetch_request (
        "PatientID" text NOT NULL,
        "IssuerOfPatientID" text NOT NULL,
        day date NOT NULL,
        "Modality" text NOT NULL,
        "BodyPartExamined" text NOT NULL,
        reason text NOT NULL,
        state text NOT NULL DEFAULT 'wanted' CHECK (state IN ('wanted', 'planned', 'expired', 'refused')),
        requested_at timestamptz NOT NULL DEFAULT now(),
        settled_at timestamptz,
        UNIQUE ("PatientID", "IssuerOfPatientID", day)
    )
    """,
    "CREATE INDEX prefetch_request_wanted ON pacs.prefetch_request (day) WHERE state = 'wanted'",
    # Their studies on other archives: each is fetched once, by whoever holds its lease.
    """
    CREATE TABLE pacs.prefetch (
        "StudyInstanceUID" text PRIMARY KEY,
        sources text[] NOT NULL CHECK (cardinality(sources) > 0),
        instances bigint NOT NULL,
        state text NOT NULL DEFAULT 'wanted' CHECK (state IN ('wanted', 'fetching', 'held', 'failed')),
        wanted_at timestamptz NOT NULL DEFAULT now(),
        rank integer NOT NULL,
        position integer NOT NULL DEFAULT 1,
        rounds integer NOT NULL DEFAULT 0,
        may_repeat boolean NOT NULL DEFAULT false,
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        lease_until timestamptz,
        settled_at timestamptz,
        source text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        run_id text NOT NULL
    )
    """,
    "CREATE INDEX prefetch_open ON pacs.prefetch (wanted_at, rank) WHERE state IN ('wanted', 'fetching')",
    # The attempts of the last minute, by which they are paced.
    "CREATE TABLE pacs.prefetch_start (source text NOT NULL, started_at timestamptz NOT NULL)",
    # Since when a rule of forwarding holds, how far it has come, and until when its peer is left alone.
    """
    CREATE TABLE pacs.forward_rule (
        rule text PRIMARY KEY,
        began_at timestamptz NOT NULL,
        watermark timestamptz NOT NULL,
        delayed_until timestamptz,
        failures integer NOT NULL DEFAULT 0,
        reason text NOT NULL DEFAULT ''
    )
    """,
    """
    CREATE TABLE pacs.forward (
        rule text NOT NULL,
        "SOPInstanceUID" text NOT NULL,
        "StudyInstanceUID" text NOT NULL,
        state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'failed')),
        entered_at timestamptz NOT NULL DEFAULT now(),
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        settled_at timestamptz,
        last_status text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        PRIMARY KEY (rule, "SOPInstanceUID")
    )
    """,
    "CREATE INDEX forward_pending ON pacs.forward (rule, next_attempt_at) WHERE state = 'pending'",
    # A unified procedure step is an item of the worklist with a UID of its own. Several may be of one study, and of none.
    """
    ALTER TABLE pacs.worklist_item
        ADD COLUMN "SOPInstanceUID" text UNIQUE,
        ADD COLUMN "TransactionUID" text NOT NULL DEFAULT '',
        ADD COLUMN "ProcedureStepLabel" text NOT NULL DEFAULT '',
        ADD COLUMN "ScheduledProcedureStepPriority" text NOT NULL DEFAULT '',
        ADD COLUMN attributes json,
        DROP CONSTRAINT "worklist_item_StudyInstanceUID_ScheduledProcedureStepID_key",
        ADD CHECK (("SOPInstanceUID" IS NULL) = (attributes IS NULL))
    """,
    """
    CREATE UNIQUE INDEX worklist_item_step ON pacs.worklist_item ("StudyInstanceUID", "ScheduledProcedureStepID")
        WHERE "SOPInstanceUID" IS NULL
    """,
    'CREATE INDEX worklist_item_unified ON pacs.worklist_item (state) WHERE "SOPInstanceUID" IS NOT NULL',
    """
    CREATE TABLE pacs.unified_step_event (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        "SOPInstanceUID" text NOT NULL REFERENCES pacs.worklist_item ("SOPInstanceUID") ON DELETE CASCADE,
        happened_at timestamptz NOT NULL DEFAULT now(),
        operation text NOT NULL,
        calling_ae text NOT NULL,
        from_state text,
        to_state text NOT NULL
    )
    """,
    'CREATE INDEX unified_step_event_step ON pacs.unified_step_event ("SOPInstanceUID")',
    # Who is told of a unified procedure step; with a lock it is kept until it is unlocked.
    """
    CREATE TABLE pacs.unified_step_subscription (
        "SOPInstanceUID" text NOT NULL REFERENCES pacs.worklist_item ("SOPInstanceUID") ON DELETE CASCADE,
        ae_title text NOT NULL,
        deletion_lock boolean NOT NULL,
        subscribed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY ("SOPInstanceUID", ae_title)
    )
    """,
    # Who is subscribed to each new one, of those that have what the keys demand.
    """
    CREATE TABLE pacs.unified_step_watcher (
        ae_title text PRIMARY KEY,
        deletion_lock boolean NOT NULL,
        keys json NOT NULL,
        subscribed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # Until when its line is left alone, because somebody is delivering it or its peer does not answer.
    "ALTER TABLE pacs.event_report ADD COLUMN leased_until timestamptz",
    'CREATE INDEX event_report_of ON pacs.event_report (peer, "SOPInstanceUID")',
    # What was printed here. The content is what is rendered; once that is done nobody needs it.
    """
    CREATE TABLE pacs.print_job (
        job text PRIMARY KEY,
        calling_ae text NOT NULL,
        "FilmSessionLabel" text NOT NULL,
        "NumberOfCopies" integer NOT NULL,
        "PrintPriority" text NOT NULL,
        "MediumType" text NOT NULL,
        "FilmDestination" text NOT NULL,
        "OwnerID" text NOT NULL,
        pages integer NOT NULL,
        images integer NOT NULL,
        state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'printed', 'failed', 'removed')),
        requested_at timestamptz NOT NULL DEFAULT now(),
        printed_at timestamptz,
        path text NOT NULL DEFAULT '',
        "StudyInstanceUID" text NOT NULL DEFAULT '',
        attempts integer NOT NULL DEFAULT 0,
        is_at_work boolean NOT NULL DEFAULT false,
        deaths integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        last_error text NOT NULL DEFAULT '',
        content json
    )
    """,
    "CREATE INDEX print_job_pending ON pacs.print_job (next_attempt_at) WHERE state = 'pending'",
    "CREATE INDEX print_job_over ON pacs.print_job (coalesce(printed_at, requested_at)) WHERE state IN ('printed', 'failed')",
)


def lock_preparation(session: Session) -> None:
    """Wait until no other process prepares this catalog; until the transaction's end none will."""
    session.run("SELECT pg_advisory_xact_lock(:lock)", lock=locks.PREPARATION)


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
