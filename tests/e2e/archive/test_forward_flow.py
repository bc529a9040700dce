"""The `forward` flow with DCMTK's storescp as the peer."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from pacs_core.index.postgres import Database
from tests.support import scu
from tests.support.archive import Archive, Listener
from tests.support.dcmtk import storescp
from tests.support.flow_process import FlowProcess
from tests.support.processes import assert_succeeded, free_ports
from tests.support.synthetic import Study
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(600)

NewListener = Callable[..., Listener]


class Site:
    """A listener with rules, and flows."""

    def __init__(self, folder: Path, listener: Listener, archive: Archive) -> None:
        self.listener = listener
        self._folder = folder
        self._archive = archive
        self._database = Database(listener.env["PACS_CATALOG_URL"])

    def add_peer(self, ae_title: str, port: int) -> None:
        assert_succeeded(self.listener.run_pacs("peer", "add", ae_title, "127.0.0.1", str(port)))

    def take_in(self, study: Study) -> set[str]:
        """Its SOPInstanceUIDs."""
        paths = study.write(self._folder / study.uid)
        assert {scu.store_file(self.listener.scp, path) for path in paths} == {0}
        return {path.stem for path in paths}

    def now(self) -> None:
        """What was delayed is due."""
        with self._database.transaction() as session:
            session.run("UPDATE pacs.forward SET next_attempt_at = now() WHERE state = 'pending'")
            session.run("UPDATE pacs.forward_rule SET delayed_until = now()")

    def start(self, **parameters: object) -> FlowProcess:
        return FlowProcess("forward", self.listener.env, self._archive.prefect_api_url, self._folder / "forward.log", **parameters)

    def run(self, **parameters: object) -> str:
        return self.start(**parameters).outcome()

    def states(self, rule: str) -> Counter[str]:
        rows = self.listener.sql(f"SELECT state FROM forward WHERE rule = '{rule}'")
        return Counter(row["state"] for row in rows)

    def close(self) -> None:
        self._database.close()


@pytest.fixture
def new_site(tmp_path: Path, new_listener: NewListener, archive: Archive) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(*rules: dict[str, object]) -> Site:
        made.append(Site(tmp_path, new_listener(PACS_FORWARDS=json.dumps(rules), PACS_PEER_IDLE_TIMEOUT="1"), archive))
        return made[-1]

    yield make
    for each in made:
        each.close()


def arrived(folder: Path) -> Counter[str]:
    """How often each instance came: storescp gives each reception a file of its own."""
    return Counter(str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in folder.iterdir() if path.is_file())


def test_what_arrives_after_a_rule_began_is_sent_once_and_a_peer_that_is_away_delays_only_its_rule(
    new_site: Callable[..., Site], tmp_path: Path
) -> None:
    here, away = free_ports(2)
    site = new_site(
        {"name": "all", "peer": "HERE"},
        {"name": "mr", "peer": "AWAY", "modalities": ["MR"], "condition": "study.StudyDescription = 'Synthetic study'"},
    )
    site.add_peer("HERE", here)
    site.add_peer("AWAY", away)
    site.take_in(Study("MR"))  # before the rules
    assert site.run(dry_run=True).startswith("Completed: dry run: 0 instances")
    assert site.listener.sql("SELECT * FROM forward_rule") == []
    assert site.run().startswith("Completed: 0 instances sent by 2 rules, 0 new")
    ct, mr = site.take_in(Study("CT", instances=2)), site.take_in(Study("MR", instances=3))
    assert site.run(dry_run=True).startswith("Completed: dry run: 8 instances would be sent by 2 rules")
    with storescp(tmp_path / "here", port=here, ae_title="HERE") as folder:
        done = site.run()
        assert done.startswith("Completed: 5 instances sent by 2 rules, 8 new"), done
        assert "3 could not be sent and are tried again; 1 rules have to wait" in done
        assert arrived(folder) == Counter(ct | mr)
        assert (site.states("all"), site.states("mr")) == ({"sent": 5}, {"pending": 3})
        assert "1 rules have to wait" in site.run(), "the peer is left alone for a minute"

        site.listener.stop()
        site.listener.start()
        site.now()
        with storescp(tmp_path / "away", port=away, ae_title="AWAY") as later:
            assert site.run().startswith("Completed: 3 instances sent by 2 rules, 0 new")
            assert site.run().startswith("Completed: 0 instances sent")
            assert arrived(later) == Counter(mr)
        assert arrived(folder) == Counter(ct | mr)
    (rule,) = site.listener.sql("SELECT failures, reason FROM forward_rule WHERE rule = 'mr'")
    assert rule == {"failures": 0, "reason": ""}


def test_a_run_that_is_killed_sends_nothing_twice_but_what_was_on_its_way(new_site: Callable[..., Site], tmp_path: Path) -> None:
    port, other = free_ports(2)
    site = new_site({"name": "all", "peer": "SLOW"})
    site.add_peer("SLOW", port)
    assert site.run().startswith("Completed")
    sent = site.take_in(Study("MR", instances=12))
    with storescp(tmp_path / "slow", port=port, ae_title="SLOW", options=["--sleep-during", "1"]):
        killed = site.start()
        eventually(lambda: site.states("all")["sent"] >= 3, within=120, what="three that were acknowledged")
        killed.kill()
        acknowledged = {row["uid"] for row in site.listener.sql("SELECT SOPInstanceUID AS uid FROM forward WHERE state = 'sent'")}
        assert len(acknowledged) < 12
    site.add_peer("SLOW", other)  # the first storescp's child may have its port for a while
    with storescp(tmp_path / "slow", port=other, ae_title="SLOW") as folder:
        done = site.run()
        assert done.startswith(f"Completed: {12 - len(acknowledged)} instances sent"), done
        received = arrived(folder)
    assert set(received) == sent
    twice = {uid for uid, count in received.items() if count > 1}
    assert len(twice) <= 1
    assert not twice & acknowledged
    assert site.states("all") == {"sent": 12}


def test_what_is_refused_for_too_long_is_given_up_and_a_wrong_rule_is_told(new_site: Callable[..., Site], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    site = new_site(
        {"name": "short", "peer": "PEER", "give_up_hours": 0.0001},
        {"name": "wrong", "peer": "PEER", "condition": "no_such_column = 1"},
        {"name": "nobody", "peer": "NOBODY"},
    )
    site.add_peer("PEER", port)
    site.run()
    site.take_in(Study("MR", instances=2))
    assert site.run(rule="short").startswith("Completed: 0 instances sent by 1 rules, 2 new; 2 could not be sent")
    assert site.run() == "Failed: 0 instances sent by 3 rules, 2 new; 2 were given up; 1 rules have to wait; 2 rules are wrong"
    assert site.states("short") == {"failed": 2}
    assert site.run(rule="short").startswith("Completed: 0 instances sent by 1 rules, 0 new")
