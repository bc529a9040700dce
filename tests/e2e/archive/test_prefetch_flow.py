"""The `prefetch` flow with Debian's Orthanc as the archive that has the priors."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench.peers import orthanc
from pacs_core.index.postgres import Database
from pacs_core.index.prefetches import Prefetches
from pacs_core.model import PriorRequest
from pacs_core.supervisor.part import PartState, PartStatus
from pacs_core.supervisor.runtime import read_runtime
from tests.support.archive import Archive, Listener
from tests.support.dcmtk import Scp, findscu, storescu
from tests.support.flow_process import FlowProcess
from tests.support.processes import assert_succeeded, free_ports
from tests.support.synthetic import Study
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(600)

NewListener = Callable[..., Listener]
NOW = datetime.now(UTC)


def days_ago(days: int) -> str:
    return f"{NOW - timedelta(days=days):%Y%m%d}"


def prior(patient: str, days: int, modality: str = "MR", *, instances: int = 2, **attributes: str) -> Study:
    return Study(modality, instances=instances, patient_id=patient, attributes={"StudyDate": days_ago(days), **attributes})


def sources(*tables: tuple[str, str]) -> str:
    return json.dumps([{"peer": peer, "how": how} for peer, how in tables])


class Site:
    """A listener, an Orthanc that may know it, and flows."""

    def __init__(self, folder: Path, listener: Listener, remote: Scp, archive: Archive) -> None:
        self.listener = listener
        self._folder = folder
        self._remote = remote
        self._archive = archive
        self._database = Database(listener.env["PACS_CATALOG_URL"])
        self._queue = Prefetches(self._database)
        self._runs: list[FlowProcess] = []

    def add_peer(self, ae_title: str, port: int | None = None) -> None:
        assert_succeeded(self.listener.run_pacs("peer", "add", ae_title, "127.0.0.1", str(port or self._remote.port)))

    def store_remotely(self, *studies: Study) -> None:
        for study in studies:
            assert_succeeded(storescu(self._remote, study.write(self._folder / study.uid)))

    def request(self, patient: str, *, in_days: int = 0, **what: str) -> None:
        assert self._queue.request([PriorRequest(patient, (NOW + timedelta(days=in_days)).date(), **what)]) == 1

    def schedule(self, patient: str, *, in_hours: int) -> None:
        """A worklist item."""
        start = datetime.now() + timedelta(hours=in_hours)  # noqa: DTZ005 local, as the worklist is
        add = ("worklist", "add", "--patient-id", patient, "--name", "A^B", "--station", "CT1", "--modality", "CT")
        assert_succeeded(self.listener.run_pacs(*add, "--start", f"{start:%Y-%m-%dT%H:%M:%S}"))

    def execute(self, statement: str) -> None:
        with self._database.transaction() as session:
            session.run(statement)

    def start(self, **parameters: object) -> FlowProcess:
        run = FlowProcess("prefetch", self.listener.env, self._archive.prefect_api_url, self._folder / "prefetch.log", **parameters)
        self._runs.append(run)
        return run

    def run(self, **parameters: object) -> str:
        return self.start(**parameters).outcome()

    def held(self) -> dict[str, int]:
        rows = self.listener.sql("SELECT StudyInstanceUID AS uid, count(*) AS instances FROM instance GROUP BY ALL")
        return {row["uid"]: row["instances"] for row in rows}

    def attempts(self) -> dict[str, tuple[str, int]]:
        with self._database.transaction() as session:  # at once: a process of `pacs sql` would see a later moment
            rows = session.run('SELECT "StudyInstanceUID", state, attempts FROM pacs.prefetch')
        return {uid: (state, attempts) for uid, state, attempts in rows}

    def received(self) -> int:
        """C-STOREs that the listener has served, over all associations that have ended."""
        rows = self.listener.sql("SELECT operations FROM association")
        return sum(count for row in rows for name, count in json.loads(row["operations"]).items() if name.startswith("C-STORE"))

    def close(self) -> None:
        for run in self._runs:
            run.kill()  # says nothing where it has ended
        self._database.close()


@pytest.fixture
def new_site(tmp_path: Path, new_listener: NewListener, archive: Archive) -> Iterator[Callable[..., Site]]:
    """Starts both sides; `knows_us`: whether Orthanc has our AE title as a destination."""
    with ExitStack() as stack:

        def make(*, knows_us: bool = True, **settings: str) -> Site:
            listener = new_listener(**settings)
            destinations = {"PACS": listener.dicom_port} if knows_us else {}
            remote = stack.enter_context(orthanc(tmp_path / "orthanc", destinations=destinations))
            return stack.enter_context(closing(Site(tmp_path, listener, remote, archive)))

        yield make


def uids(studies: Sequence[Study]) -> dict[str, int]:
    return {study.uid: study.instances for study in studies}


def test_relevant_priors_arrive_by_c_move_once_however_often_it_runs(new_site: Callable[..., Site], tmp_path: Path) -> None:
    site = new_site(PACS_PREFETCH_SOURCES=sources(("ORTHANC", "move")))
    site.add_peer("ORTHANC")
    wanted = [prior("PREF1", 300, "CT", BodyPartExamined="CHEST"), prior("PREF1", 20, "CT"), prior("PREF1", 10), prior("PREF1", 400)]
    others = [prior("PREF10", 5, "CT"), prior("PREF1", 500, "CT"), prior("PREF1", 30)]
    site.store_remotely(*wanted, *others)
    site.request("PREF1", Modality="CT", BodyPartExamined="CHEST")

    parameters = {"lookback_days": 450, "max_studies": 4}
    planned = site.run(dry_run=True, **parameters)
    assert planned == "Completed: dry run: 4 studies of 1 patients"
    assert (site.held(), site.attempts()) == ({}, {})

    done = site.run(**parameters)
    chosen = [*wanted[:3], others[2]]
    assert done.startswith("Completed: 4 studies with 8 instances were fetched"), done
    assert site.held() == uids(chosen)
    assert site.attempts() == {study.uid: ("held", 1) for study in chosen}
    ranks = site.listener.sql("SELECT StudyInstanceUID AS uid FROM prefetch ORDER BY rank")
    assert [row["uid"] for row in ranks] == [study.uid for study in chosen]
    eventually(lambda: site.received() == 8, what="the associations in their table")

    site.request("PREF1", in_days=1, Modality="CT", BodyPartExamined="CHEST")
    assert site.run(**parameters).startswith("Completed: 0 studies with 0 instances were fetched; 1 patients, 4 priors were here")
    site.listener.stop()
    site.listener.start()
    site.request("PREF1", in_days=2)
    assert site.run(**parameters).startswith("Completed: 0 studies")
    assert site.attempts() == {study.uid: ("held", 1) for study in chosen}
    assert site.received() == 8
    assert (tmp_path / "prefetch.log").read_text().count("prefetch_ended") == 4, "our hook"
    summaries = site.listener.sql("SELECT state, summary FROM flow_run WHERE flow = 'prefetch' ORDER BY started_at")
    assert [row["state"] for row in summaries] == ["planned", "completed", "completed", "completed"]
    assert json.loads(summaries[1]["summary"])["instances"] == 8


def test_a_source_that_does_not_give_a_study_falls_back_to_the_next_one(new_site: Callable[..., Site]) -> None:
    """FIRST is away, SECOND has the study and does not know us, THIRD gives it by C-GET: both are the same Orthanc."""
    site = new_site(knows_us=False, PACS_PREFETCH_SOURCES=sources(("FIRST", "move"), ("SECOND", "move"), ("THIRD", "get")))
    site.add_peer("FIRST", free_ports(1)[0])
    site.add_peer("SECOND")
    site.add_peer("THIRD")
    study = prior("PREF2", 10, instances=3)
    site.store_remotely(study)
    site.request("PREF2")
    done = site.run()
    assert done.startswith("Completed: 1 studies with 3 instances were fetched"), done
    assert "1 attempts failed; 1 sources are away" in done
    assert site.held() == {study.uid: 3}
    (row,) = site.listener.sql("SELECT state, source, attempts FROM prefetch")
    assert row == {"state": "held", "source": "THIRD", "attempts": 2}
    (origin,) = site.listener.sql("SELECT DISTINCT source_ae, receiving_ae FROM instance")
    assert origin == {"source_ae": "THIRD", "receiving_ae": "PACS"}
    (request,) = site.listener.sql("SELECT state FROM prefetch_request")
    assert request["state"] == "wanted", "FIRST is asked as soon as it is there"


def test_priors_of_who_is_scheduled_soon_come_no_faster_than_they_may(new_site: Callable[..., Site]) -> None:
    site = new_site(PACS_PREFETCH_SOURCES=sources(("ORTHANC", "move")), PACS_PREFETCH_PER_MINUTE="2")
    site.add_peer("ORTHANC")
    site.store_remotely(*(prior("PREF3", day, instances=1) for day in (1, 2, 3)), prior("PREF6", 1))
    site.schedule("PREF3", in_hours=2)
    site.schedule("PREF6", in_hours=30)
    run = site.start()
    expected = [("held", 1), ("held", 1), ("wanted", 0)]
    eventually(lambda: sorted(site.attempts().values()) == expected, within=90, what="two studies, and none more")
    assert len(site.held()) == 2
    site.execute("UPDATE pacs.prefetch_start SET started_at = started_at - INTERVAL '1 minute'")
    assert run.outcome().startswith("Completed: 3 studies with 3 instances were fetched")
    assert len(site.held()) == 3


def test_a_run_that_was_killed_is_simply_run_again(new_site: Callable[..., Site]) -> None:
    site = new_site(PACS_PREFETCH_SOURCES=sources(("ORTHANC", "get")), PACS_PREFETCH_AT_ONCE="1")
    site.add_peer("ORTHANC")
    studies = [prior("PREF4", day, "CT", instances=6) for day in range(1, 7)]
    site.store_remotely(*studies)
    site.request("PREF4")
    killed = site.start()
    eventually(lambda: "held" in {state for state, _ in site.attempts().values()}, within=90, what="the first study")
    killed.kill()
    before = {uid for uid, (state, _) in site.attempts().items() if state == "held"}
    assert len(before) < len(studies)
    site.execute("UPDATE pacs.prefetch SET lease_until = now() WHERE state = 'fetching'")  # as some minutes later
    assert site.run().startswith("Completed: ")
    assert site.held() == uids(studies)
    attempts = site.attempts()
    assert {state for state, _ in attempts.values()} == {"held"}
    assert {attempts[uid] for uid in before} == {("held", 1)}


def test_without_a_source_it_does_nothing(new_listener: NewListener, archive: Archive, tmp_path: Path) -> None:
    listener = new_listener()
    with closing(Database(listener.env["PACS_CATALOG_URL"])) as database:
        Prefetches(database).request([PriorRequest("PREF5", NOW.date())])
    run = FlowProcess("prefetch", listener.env, archive.prefect_api_url, tmp_path / "prefetch.log")
    assert run.outcome().startswith("Completed: there is no source")


def listeners(archive: Archive) -> dict[str, PartStatus]:
    runtime = read_runtime(archive.home)
    return {part.name: part for part in runtime.parts if part.name.startswith("listener")} if runtime else {}


def restart_listeners(archive: Archive) -> None:
    """As a crash of each does: they are started again, with the settings of then."""
    before = listeners(archive)
    for part in before.values():
        assert part.pid is not None
        os.kill(part.pid, signal.SIGKILL)

    def are_back() -> bool:
        now = listeners(archive)
        return all(now[name].pid != part.pid and now[name].state is PartState.READY for name, part in before.items())

    eventually(are_back, within=60, what="both listeners again")


@contextmanager
def fetching_from(source: str, port: int, archive: Archive) -> Iterator[None]:
    """A source of priors in the settings of a running archive, for the length of a `with` block."""
    assert_succeeded(archive.run_pacs("peer", "add", source, "127.0.0.1", str(port)))
    settings = archive.home / "pacs.toml"
    settings.write_text(f'[[prefetch_sources]]\npeer = "{source}"\n')
    restart_listeners(archive)
    yield
    settings.unlink()
    restart_listeners(archive)
    assert_succeeded(archive.run_pacs("peer", "remove", source))


def test_the_worklist_query_of_a_modality_brings_the_priors_and_brings_them_once(archive: Archive, tmp_path: Path) -> None:
    """Nobody starts a flow: DCMTK's findscu asks, and the priors come. A query after a restart brings nothing more."""
    priors = [prior("PREF7", day, "CT", instances=3) for day in (10, 100)]
    today = datetime.now()  # noqa: DTZ005 local, as the worklist is
    add = ("worklist", "add", "--patient-id", "PREF7", "--name", "A^B", "--station", "PREFCT", "--modality", "CT")
    assert_succeeded(archive.run_pacs(*add, "--start", f"{today:%Y-%m-%dT%H:%M:%S}"))

    def ask(folder: str) -> list[str]:
        keys = {"PatientID": "", "ScheduledProcedureStepSequence[0].ScheduledStationAETitle": "PREFCT"}
        return [str(item.PatientID) for item in findscu(archive.scp, tmp_path / folder, "worklist", "", keys)]

    def here() -> dict[str, int]:
        rows = archive.sql("SELECT StudyInstanceUID AS uid, count(*) AS n FROM instance JOIN study USING (StudyInstanceUID)"
                           " WHERE PatientID = 'PREF7' GROUP BY ALL")  # fmt: skip
        return {row["uid"]: row["n"] for row in rows}

    def runs() -> list[str]:
        return [row["state"] for row in archive.sql("SELECT state FROM flow_run WHERE flow = 'prefetch'")]

    with orthanc(tmp_path / "orthanc", destinations={archive.ae_title: archive.dicom_port}) as remote:
        for study in priors:
            assert_succeeded(storescu(remote, study.write(tmp_path / study.uid)))
        with fetching_from("ORTHANC", remote.port, archive):
            assert ask("first") == ["PREF7"]
            eventually(lambda: here() == uids(priors), within=120, what="both priors")
            eventually(lambda: "completed" in runs(), within=60, what="the record of the run")
            restart_listeners(archive)
            assert ask("second") == ["PREF7"]
            before = len(runs())
            assert_succeeded(archive.run_pacs("flow", "run", "prefetch", timeout=180))
            eventually(lambda: len(runs()) > before, within=60, what="the record of another run")
    fetched = archive.sql("SELECT StudyInstanceUID AS uid, state, attempts FROM prefetch")
    assert {row["uid"]: (row["state"], row["attempts"]) for row in fetched} == {study.uid: ("held", 1) for study in priors}
    (request,) = archive.sql("SELECT reason FROM prefetch_request WHERE PatientID = 'PREF7'")
    assert request["reason"] == "worklist"
