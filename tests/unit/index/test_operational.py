from datetime import UTC, datetime, timedelta

from pacs_core.index.operational import FlowRuns, Peers, Recalls, StudyAccesses
from pacs_core.index.postgres import Database
from pacs_core.model import UID, AETitle, Peer, Permission

STARTED = datetime(2024, 1, 1, tzinfo=UTC)


def test_peers_are_added_replaced_listed_and_removed(database: Database) -> None:
    peers = Peers(database)
    assert peers.get("VIEWER") is None
    peers.put(Peer(AETitle("VIEWER"), "viewer.local", 104))
    peers.put(Peer(AETitle("ARCHIVE"), "10.0.0.1", 11112))
    peers.put(Peer(AETitle("VIEWER"), "::1", 105))
    assert peers.get("VIEWER") == Peer(AETitle("VIEWER"), "::1", 105)
    assert [peer.ae_title for peer in peers.all()] == ["ARCHIVE", "VIEWER"]
    assert (peers.remove("VIEWER"), peers.remove("VIEWER")) == (True, False)


def test_a_flow_run_is_one_row_from_start_to_end(database: Database) -> None:
    runs = FlowRuns(database)
    runs.start("r1", "verify", started_at=STARTED, parameters={"tier": "hot"})
    running = runs.get("r1")
    assert running is not None
    assert (running.state, running.ended_at, running.summary) == ("running", None, {})
    runs.finish("r1", state="completed", ended_at=STARTED + timedelta(seconds=5), summary={"verified": 7})
    finished = runs.get("r1")
    assert finished is not None
    assert (finished.state, finished.parameters, finished.summary) == ("completed", {"tier": "hot"}, {"verified": 7})


def test_a_retried_run_begins_its_row_anew(database: Database) -> None:
    runs = FlowRuns(database)
    runs.start("r1", "verify", started_at=STARTED, parameters={})
    runs.finish("r1", state="failed", ended_at=STARTED, summary={"verified": 1})
    runs.start("r1", "verify", started_at=STARTED + timedelta(minutes=1), parameters={})
    again = runs.get("r1")
    assert again is not None
    assert (again.state, again.ended_at, again.summary) == ("running", None, {})


def test_the_latest_runs_come_first(database: Database) -> None:
    runs = FlowRuns(database)
    for minute, flow in enumerate(("verify", "other", "verify")):
        runs.start(f"r{minute}", flow, started_at=STARTED + timedelta(minutes=minute), parameters={})
    assert [run.run_id for run in runs.latest(limit=2)] == ["r2", "r1"]
    assert [run.run_id for run in runs.latest(flow="verify")] == ["r2", "r0"]
    assert runs.get("none") is None


def test_a_recall_is_entered_once_and_begins_anew_when_it_is_wanted_again(database: Database) -> None:
    recalls, study = Recalls(database), UID("1.2.3")
    recalls.want(study)
    (first,) = recalls.wanted()
    recalls.want(study)
    assert recalls.wanted() == [first]
    recalls.asked(study)
    (asked,) = recalls.wanted()
    recalls.asked(study)
    assert recalls.wanted() == [asked]
    assert asked.asked_at is not None
    recalls.want(study)
    assert recalls.wanted() == [asked]
    recalls.available(study)
    recalls.available(study)
    assert recalls.wanted() == []
    recalls.want(study)
    (again,) = recalls.wanted()
    assert (again.asked_at, again.available_at) == (None, None)
    recalls.done(study)
    recalls.done(study)
    assert recalls.wanted() == []


def test_studies_are_recalled_in_the_order_in_which_they_were_wanted(database: Database) -> None:
    recalls = Recalls(database)
    for study in ("1.9", "1.1", "1.5"):
        recalls.want(UID(study))
    assert [each.StudyInstanceUID for each in recalls.wanted()] == ["1.9", "1.1", "1.5"]


def test_the_last_access_of_a_study_is_what_remains(database: Database) -> None:
    accesses = StudyAccesses(database)
    accesses.record([UID("1.1"), UID("1.1"), UID("1.2")])
    with database.transaction() as session:
        before = dict(session.run('SELECT "StudyInstanceUID", accessed_at FROM pacs.study_access'))
    accesses.record([UID("1.2")])
    with database.transaction() as session:
        after = dict(session.run('SELECT "StudyInstanceUID", accessed_at FROM pacs.study_access'))
    assert before.keys() == {"1.1", "1.2"}
    assert (after["1.1"], after["1.2"] > before["1.2"]) == (before["1.1"], True)


def test_what_is_known_of_a_peer_is_kept(database: Database) -> None:
    peer = Peer(AETitle("CT1"), "ct", 104, True, (Permission.STORE, Permission.WORKLIST), (UID("1.2.840.10008.1.2.1"),))
    Peers(database).put(peer)
    assert Peers(database).get("CT1") == peer
    assert (peer.may(Permission.STORE), peer.may(Permission.QUERY)) == (True, False)
