"""The `recall` flow on the running archive."""

import pytest

from tests.support.archive import Archive

pytestmark = pytest.mark.timeout(300)


def test_a_recall_of_nothing_is_a_completed_run_with_a_record(archive: Archive) -> None:
    done = archive.run_pacs("flow", "run", "recall", timeout=200)
    assert (done.returncode, "no study is wanted" in done.stdout) == (0, True), done.stdout
    (newest,) = archive.sql("SELECT state FROM flow_run WHERE flow = 'recall' ORDER BY started_at DESC LIMIT 1")
    assert newest["state"] == "completed"
