"""The durability proofs of bench/ in short: the same code with small numbers. What they measure in seconds is not asserted here."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from bench import commitment, crash, duplicates, fsync, full, hostile, outage, proxy, steps
from bench.durability.checker import Findings, IndexRow, check, data_set_digest
from bench.durability.disk import can_mount
from bench.durability.oracle import NO_ANSWER, SUCCESS, Oracle
from bench.durability.site import running_catalogs
from bench.durability.strace import Call
from bench.durability.sync_rules import lost_objects, repeated_syncs, unfounded_answers
from bench.durability.verdict import Verdict
from bench.steps import STEPS, Step
from tests.support.catalog import Catalogs
from tests.support.part10 import by_instance
from tests.support.synthetic import Study

_SEED = 1


def _assert_durable(verdict: Verdict) -> None:
    assert verdict.problems == []


def test_what_is_killed_at_any_moment_has_kept_what_it_acknowledged(tmp_path: Path, catalogs: Catalogs) -> None:
    _assert_durable(crash.run(tmp_path, catalogs, rounds=6, seed=_SEED))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_what_is_killed_at_a_step_has_kept_what_it_acknowledged(tmp_path: Path, catalogs: Catalogs, step: Step) -> None:
    _assert_durable(steps.run(tmp_path, catalogs, steps=[step], rounds=1, seed=_SEED))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("victim", fsync.VICTIMS)
def test_a_sync_that_fails_is_never_answered_with_success(tmp_path: Path, catalogs: Catalogs, victim: str, n: int) -> None:
    _assert_durable(fsync.run(tmp_path, catalogs, failing=[n], victims=[victim], seed=_SEED))


@pytest.mark.skipif(not can_mount(), reason="mounting a small file system takes root")
def test_a_full_disk_refuses_and_keeps_what_it_acknowledged(tmp_path: Path, catalogs: Catalogs) -> None:
    _assert_durable(full.run(tmp_path, catalogs, rounds=1, seed=_SEED))


def test_an_outage_of_postgresql_refuses_and_loses_nothing(tmp_path: Path) -> None:
    with running_catalogs(tmp_path / "postgres") as catalogs:
        _assert_durable(outage.run(tmp_path, catalogs, rounds=1, seconds=5, seed=_SEED))


def test_a_transfer_that_breaks_leaves_nothing(tmp_path: Path, catalogs: Catalogs) -> None:
    _assert_durable(proxy.run(tmp_path, catalogs, rounds=30, seed=_SEED))


def test_commitment_is_exact_and_reaches_a_modality_that_was_away(tmp_path: Path, catalogs: Catalogs) -> None:
    _assert_durable(commitment.run(tmp_path, catalogs, rounds=20, away=2, seed=_SEED))


def test_of_many_arrivals_of_an_instance_the_first_is_held_once(tmp_path: Path, catalogs: Catalogs) -> None:
    _assert_durable(duplicates.run(tmp_path, catalogs, rounds=50, seed=_SEED))


def test_hostile_connections_are_closed_and_harm_nobody(tmp_path: Path, catalogs: Catalogs) -> None:
    _assert_durable(hostile.run(tmp_path, catalogs, silent=10, slow=4, timeout=2, seed=_SEED))


class TestTheCheck:
    """A proof is worth what its check would find: two instances, one of them acknowledged, and something wrong."""

    @pytest.fixture
    def held(self, tmp_path: Path) -> "Held":
        return Held(tmp_path / "hot")

    def test_nothing_is_found_where_nothing_is_wrong(self, held: "Held") -> None:
        assert found(held.check()) == set()

    @pytest.mark.parametrize(
        ("harm", "names"),
        [
            (lambda held: held.rows.clear(), {"lost", "leftovers"}),
            (lambda held: held.path.unlink(), {"lost", "wrong_rows"}),
            (lambda held: held.overwrite(b"X"), {"different", "wrong_rows"}),
            (lambda held: held.overwrite(b""), {"different", "wrong_rows"}),
            (lambda held: held.rows.append(held.rows[0]), {"duplicate_rows"}),
            (lambda held: held.leave(".incoming/1.part"), {"leftovers"}),
            (lambda held: held.leave("1/2/3.dcm"), {"different", "leftovers"}),
            (lambda held: held.cut_unacknowledged(), {"different"}),
        ],
    )
    def test_what_is_wrong_is_found(self, held: "Held", harm: Callable[["Held"], object], names: set[str]) -> None:
        harm(held)
        assert found(held.check()) == names

    def test_an_unacknowledged_object_may_be_there_or_not(self, held: "Held") -> None:
        held.unacknowledged.unlink()
        assert found(held.check()) == set()


class Held:
    """A hot tier with an acknowledged, indexed object and one that nobody was told of."""

    def __init__(self, hot: Path) -> None:
        self.hot = hot
        files = by_instance(Study("MR", instances=2).write(hot / "study"))
        (self.uid, self.path), (other, self.unacknowledged) = files.items()
        digests = {uid: data_set_digest(path) for uid, path in files.items()}
        self.oracle = Oracle.of([[self.uid, digests[self.uid], str(SUCCESS)], [other, digests[other], str(NO_ANSWER)]])
        content = self.path.read_bytes()
        self.rows = [IndexRow(self.uid, f"study/{self.path.name}", len(content), hashlib.sha256(content).hexdigest())]

    def check(self) -> Findings:
        return check(self.hot, self.rows, self.oracle)

    def overwrite(self, end: bytes) -> None:
        """Give the object's last byte another value, or none."""
        self.path.write_bytes(self.path.read_bytes()[:-1] + end)

    def cut_unacknowledged(self) -> None:
        self.unacknowledged.write_bytes(self.unacknowledged.read_bytes()[:1000])

    def leave(self, name: str) -> None:
        path = self.hot / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"left")


def found(findings: Findings) -> set[str]:
    """What kinds of things are wrong."""
    kinds = ("lost", "different", "duplicate_rows", "wrong_rows", "leftovers")
    return {kind for kind in kinds if getattr(findings, kind)}


class TestTheRulesOfSyncing:
    """What strace has seen: a letter for each call of one thread."""

    @pytest.mark.parametrize(
        ("seen", "problems"),
        [
            ("a wj sj a", 0),
            ("a wj a", 1),
            ("a wj fj a", 2),  # not synced, and the sync failed
            ("a wp so a", 0),
            ("a wp sj a", 1),
            ("a wj sj wj a", 1),
        ],
    )
    def test_an_answer_follows_the_sync(self, seen: str, problems: int) -> None:
        assert len(list(unfounded_answers(list(_calls(seen)), [SUCCESS]))) == problems

    def test_a_refusal_may_follow_a_failed_sync(self) -> None:
        assert list(unfounded_answers(list(_calls("a wj fj a")), [0xA700])) == []

    @pytest.mark.parametrize(("seen", "problems"), [("fo so", 1), ("fo wo so", 0), ("fo ro so", 0), ("fj wj sj", 1), ("fd sd", 0)])
    def test_a_failed_sync_is_not_repeated(self, seen: str, problems: int) -> None:
        assert len(list(repeated_syncs(list(_calls(seen))))) == problems

    @pytest.mark.parametrize(("seen", "lost"), [("fo", 1), ("fo so", 1), ("fo wo so", 0), ("fo ro", 0), ("fj", 0)])
    def test_an_object_whose_sync_failed_is_lost_unless_it_is_written_anew(self, seen: str, lost: int) -> None:
        assert len(lost_objects(list(_calls(seen)))) == lost


_FILES = {"j": "/home/1-2-3.journal", "p": "/home/1.part", "o": "/home/1.2/3.dcm", "d": "/home/1.2"}
_NAMES = {"w": "write", "s": "fsync", "f": "fsync", "r": "rename"}


def _calls(seen: str) -> Iterable[Call]:
    """`w`rite, `s`ync, `f`ailed sync, `r`ename onto; and `a`nswer, the first of which accepts the association."""
    for letters in seen.split():
        kind, file = letters[0], _FILES.get(letters[1:], "")
        if kind == "a":
            yield Call(1, "sendto", "7<TCP:[127.0.0.1:1->127.0.0.1:2]>", "100", "TCP:[127.0.0.1:1-")
        elif kind == "r":
            yield Call(1, "rename", f'"/home/.tmp", "{file}"', "0", "")
        else:
            yield Call(1, _NAMES[kind], f"3<{file}>", "-1 EIO (Input/output error) (INJECTED)" if kind == "f" else "0", file)
