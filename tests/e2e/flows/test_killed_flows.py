"""The proofs of bench/faults.py and bench/deletion.py in short: the same code with small numbers.

On the Prefect server of the archive that is there: one of their own takes longer to start than they take.
"""

from pathlib import Path

import pytest

from bench import deletion, faults
from tests.support.archive import Archive
from tests.support.catalog import Catalogs

pytestmark = pytest.mark.timeout(300)

_SEED = 1


def test_flows_that_are_killed_lose_nothing_and_the_next_run_completes(tmp_path: Path, catalogs: Catalogs, archive: Archive) -> None:
    assert faults.run(tmp_path, catalogs, rounds=2, seed=_SEED, prefect_api_url=archive.prefect_api_url).problems == []


def test_protected_studies_stay_through_cleanups_that_are_killed(tmp_path: Path, catalogs: Catalogs, archive: Archive) -> None:
    verdict = deletion.run(tmp_path, catalogs, rounds=2, studies=6, seed=_SEED, prefect_api_url=archive.prefect_api_url)
    assert verdict.problems == []
