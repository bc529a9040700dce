"""The small mutable tables: peers, flow runs, which studies were retrieved and which are to be recalled."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pacs_core.errors import NotFound
from pacs_core.index.postgres import Database, Row
from pacs_core.model import UID, AETitle, Peer, Permission, Recall

JSONObject = Mapping[str, object]


class Peers:
    """The peers, in PostgreSQL (ports.PeerDirectory). Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, ae_title: str) -> Peer | None:
        """The peer, or None."""
        with self._database.transaction() as session:
            rows = session.run(f"SELECT {_PEER_COLUMNS} FROM pacs.peer WHERE ae_title = :ae_title", ae_title=ae_title)  # noqa: S608 a constant
        return _peer(rows[0]) if rows else None

    def all(self) -> Sequence[Peer]:
        """Every peer by AE title."""
        with self._database.transaction() as session:
            rows = session.run(f'SELECT {_PEER_COLUMNS} FROM pacs.peer ORDER BY ae_title COLLATE "C"')  # noqa: S608 a constant
        return [_peer(row) for row in rows]

    def put(self, peer: Peer) -> None:
        """Add or replace."""
        with self._database.transaction() as session:
            session.run(
                f"INSERT INTO pacs.peer ({_PEER_COLUMNS})"  # noqa: S608 a constant
                " VALUES (:ae_title, :host, :port, :tls, CAST(:permissions AS text[]), CAST(:transfer_syntaxes AS text[]))"
                " ON CONFLICT (ae_title) DO UPDATE SET host = excluded.host, port = excluded.port, tls = excluded.tls,"
                " permissions = excluded.permissions, transfer_syntaxes = excluded.transfer_syntaxes",
                ae_title=peer.ae_title,
                host=peer.host,
                port=peer.port,
                tls=peer.tls,
                permissions=[str(each) for each in peer.permissions],
                transfer_syntaxes=list(peer.transfer_syntaxes),
            )

    def remove(self, ae_title: str) -> bool:
        """Whether there was one to remove."""
        with self._database.transaction() as session:
            return bool(session.run("DELETE FROM pacs.peer WHERE ae_title = :ae_title RETURNING 1", ae_title=ae_title))


_PEER_COLUMNS = "ae_title, host, port, tls, permissions, transfer_syntaxes"


def _peer(row: Row) -> Peer:
    ae_title, host, port, tls, permissions, transfer_syntaxes = row
    return Peer(AETitle(ae_title), host, port, tls, tuple(map(Permission, permissions)), tuple(map(UID, transfer_syntaxes)))


@dataclass(frozen=True, slots=True)
class FlowRun:
    """What a flow did.

    Attributes:
        run_id: the engine's name for the run.
        state: "running", and at the end what the flow calls its outcome ("completed", "failed", "paused", …).
        ended_at: None while it runs, and for ever where it was killed.
        summary: counts and whatever else the flow reports; JSON values.
    """

    run_id: str
    flow: str
    state: str
    started_at: datetime
    ended_at: datetime | None
    parameters: JSONObject
    summary: JSONObject


class FlowRuns:
    """One row per flow run, in PostgreSQL. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, run_id: str, flow: str, *, started_at: datetime, parameters: JSONObject) -> None:
        """Record that a run has begun. Repeating it, as a retried run does, begins the row anew."""
        with self._database.transaction() as session:
            session.run(
                "INSERT INTO pacs.flow_run (run_id, flow, state, started_at, parameters, summary)"
                " VALUES (:run_id, :flow, 'running', :started_at, :parameters, '{}')"
                " ON CONFLICT (run_id) DO UPDATE SET state = 'running', started_at = excluded.started_at, ended_at = NULL,"
                " parameters = excluded.parameters, summary = '{}'",
                run_id=run_id,
                flow=flow,
                started_at=started_at,
                parameters=json.dumps(parameters),
            )

    def finish(self, run_id: str, *, state: str, ended_at: datetime, summary: JSONObject) -> None:
        """Record how a run ended. Repeatable; does nothing for a run that never started."""
        with self._database.transaction() as session:
            session.run(
                "UPDATE pacs.flow_run SET state = :state, ended_at = :ended_at, summary = :summary WHERE run_id = :run_id",
                run_id=run_id,
                state=state,
                ended_at=ended_at,
                summary=json.dumps(summary),
            )

    def get(self, run_id: str) -> FlowRun | None:
        """The run, or None."""
        with self._database.transaction() as session:
            rows = session.run(f"SELECT {_FLOW_RUN_COLUMNS} FROM pacs.flow_run WHERE run_id = :run_id", run_id=run_id)  # noqa: S608 a constant
        return FlowRun(*rows[0]) if rows else None

    def latest(self, *, flow: str | None = None, limit: int = 20) -> Sequence[FlowRun]:
        """The most recently started runs, of one flow or of all, newest first."""
        with self._database.transaction() as session:
            rows = session.run(
                f"SELECT {_FLOW_RUN_COLUMNS} FROM pacs.flow_run WHERE flow = coalesce(:flow, flow)"  # noqa: S608 a constant
                " ORDER BY started_at DESC, run_id LIMIT :limit",
                flow=flow,
                limit=limit,
            )
        return [FlowRun(*row) for row in rows]


class Plans:
    """What dry runs have planned, in PostgreSQL. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, run_id: str, flow: str, plan: JSONObject) -> None:
        """Keep the plan of a run."""
        with self._database.transaction() as session:
            session.run(
                "INSERT INTO pacs.plan (run_id, flow, plan) VALUES (:run_id, :flow, :plan)"
                " ON CONFLICT (run_id) DO UPDATE SET plan = excluded.plan, made_at = now()",
                run_id=run_id,
                flow=flow,
                plan=json.dumps(plan),
            )

    def get(self, run_id: str, flow: str) -> JSONObject:
        """The plan that a run of a flow has made. NotFound."""
        with self._database.transaction() as session:
            rows = session.run("SELECT plan FROM pacs.plan WHERE run_id = :run_id AND flow = :flow", run_id=run_id, flow=flow)
        if not rows:
            raise NotFound(f"no dry run {run_id} of {flow} has left a plan")
        plan: JSONObject = rows[0][0]
        return plan


_FLOW_RUN_COLUMNS = "run_id, flow, state, started_at, ended_at, parameters, summary"


class StudyAccesses:
    """When studies were last retrieved, in PostgreSQL (ports.StudyAccesses). Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, studies: Sequence[UID]) -> None:
        """They are being retrieved now."""
        with self._database.transaction() as session:
            session.run(
                'INSERT INTO pacs.study_access ("StudyInstanceUID", accessed_at)'
                " SELECT DISTINCT study, now() FROM unnest(CAST(:studies AS text[])) study ORDER BY study"  # one order: no deadlocks
                ' ON CONFLICT ("StudyInstanceUID") DO UPDATE SET accessed_at = excluded.accessed_at',
                studies=list(studies),
            )


class Recalls:
    """The studies that are wanted back from an archive class, in PostgreSQL (ports.Recalls). Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def want(self, study: UID) -> None:
        """Somebody wants it; see ports.Recalls."""
        self._run(
            'INSERT INTO pacs.recall AS r ("StudyInstanceUID") VALUES (:study) ON CONFLICT ("StudyInstanceUID") DO UPDATE'
            " SET wanted_at = now(), asked_at = NULL, available_at = NULL WHERE r.available_at IS NOT NULL",
            study,
        )

    def wanted(self) -> Sequence[Recall]:
        """Those that are not available yet; see ports.Recalls."""
        with self._database.transaction() as session:
            rows = session.run(
                'SELECT "StudyInstanceUID", wanted_at, asked_at, available_at FROM pacs.recall WHERE available_at IS NULL'
                ' ORDER BY wanted_at, "StudyInstanceUID" COLLATE "C"'
            )
        return [Recall(*row) for row in rows]

    def asked(self, study: UID) -> None:
        """The provider has been asked for all of it."""
        self._run('UPDATE pacs.recall SET asked_at = coalesce(asked_at, now()) WHERE "StudyInstanceUID" = :study', study)

    def available(self, study: UID) -> None:
        """All of it can be read."""
        self._run('UPDATE pacs.recall SET available_at = coalesce(available_at, now()) WHERE "StudyInstanceUID" = :study', study)

    def done(self, study: UID) -> None:
        """Forget it."""
        self._run('DELETE FROM pacs.recall WHERE "StudyInstanceUID" = :study', study)

    def _run(self, statement: str, study: UID) -> None:
        with self._database.transaction() as session:
            session.run(statement, study=study)
