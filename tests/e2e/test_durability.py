"""The durability proofs of bench/ in short: the same code with small numbers. What they measure in seconds is not asserted here."""

from pathlib import Path

import pytest

from bench import crash, duplicates, fsync, full, hostile, outage, proxy, steps
from bench.durability.disk import can_mount
from bench.durability.site import running_catalogs
from bench.durability.verdict import Verdict
from bench.steps import STEPS, Step
from tests.support.catalog import Catalogs

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


def test_of_many_arrivals_of_an_instance_the_first_is_held_once(tmp_path: Path, catalogs: Catalogs) -> None:
    _assert_durable(duplicates.run(tmp_path, catalogs, rounds=50, seed=_SEED))


def test_hostile_connections_are_closed_and_harm_nobody(tmp_path: Path, catalogs: Catalogs) -> None:
    _assert_durable(hostile.run(tmp_path, catalogs, silent=10, slow=4, timeout=2, seed=_SEED))
