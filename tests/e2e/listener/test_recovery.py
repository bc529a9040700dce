"""The index is lost, and comes back: from storage alone, or from a backup."""

import json
from collections.abc import Callable
from pathlib import Path

from pacs_core.index.postgres import CatalogURL, Session
from tests.support.archive import Listener
from tests.support.dcmtk import storescu
from tests.support.processes import assert_succeeded
from tests.support.synthetic import NAMES_BY_CHARSET, Study
from tests.support.waiting import eventually

NewListener = Callable[..., Listener]
_KNOWN_TO_STORAGE = "* EXCLUDE (verified_at, located_at, located_by)"


def dump(listener: Listener) -> dict[str, list[str]]:
    """Every row that storage can tell, of each table."""
    columns = {"patient": "*", "study": "*", "series": "*", "instance": _KNOWN_TO_STORAGE}
    tables = [f"SELECT '{table}' AS held_in, to_json(t) AS held FROM (SELECT {chosen} FROM {table}) t" for table, chosen in columns.items()]
    rows = listener.sql(" UNION ALL ".join(tables) + " ORDER BY ALL")
    return {table: [row["held"] for row in rows if row["held_in"] == table] for table in columns}


def filled(listener: Listener, folder: Path) -> int:
    """Studies of several patients are stored and indexed; how many instances."""
    count = 0
    for number, (charset, name) in enumerate(NAMES_BY_CHARSET.items()):
        study = Study("MR", series=2, instances=3, attributes={"SpecificCharacterSet": charset.split("\\"), "PatientName": name})
        assert_succeeded(storescu(listener.scp, study.write(folder / str(number))))
        count += 6
    eventually(lambda: listener.sql("SELECT count(*) AS n FROM instance") == [{"n": count}], what="the instances in the index")
    return count


def drop_index(listener: Listener) -> None:
    session = Session(CatalogURL.parse(listener.env["PACS_CATALOG_URL"]), application_name="test")
    session.run("DROP SCHEMA lake CASCADE")
    session.run("DROP SCHEMA pacs CASCADE")
    session.close()


def test_an_index_that_was_dropped_is_rebuilt_from_storage_alone(new_listener: NewListener, tmp_path: Path) -> None:
    listener = new_listener()
    count = filled(listener, tmp_path / "made")
    before, hashes = dump(listener), assert_succeeded(listener.run_pacs("index", "hash", "--format", "json")).stdout
    drop_index(listener)
    done = assert_succeeded(listener.run_pacs("index", "rebuild", "--yes"))
    assert f"{count} instances indexed" in done.stdout
    assert dump(listener) == before
    assert assert_succeeded(listener.run_pacs("index", "hash", "--format", "json")).stdout == hashes
    assert not (listener.home / "rebuild").exists()

    # The listener that ran all the time goes on, and the index is not rebuilt over by mistake.
    assert_succeeded(storescu(listener.scp, Study("MR", instances=2).write(tmp_path / "later")))
    eventually(lambda: listener.sql("SELECT count(*) AS n FROM instance") == [{"n": count + 2}], what="what arrived afterwards")
    refused = listener.run_pacs("index", "rebuild", "--yes")
    assert refused.returncode == 2
    assert "not empty" in refused.stdout
    again = assert_succeeded(listener.run_pacs("index", "rebuild", "--into-existing", "--yes"))
    assert f"0 instances indexed, {count + 2} were" in again.stdout
    unasked = listener.run_pacs("index", "rebuild", "--into-existing")
    assert "say --yes" in unasked.stdout


def test_a_backup_comes_back_and_storage_tells_the_rest(new_listener: NewListener, tmp_path: Path) -> None:
    listener = new_listener()
    filled(listener, tmp_path / "made")
    assert_succeeded(listener.run_pacs("peer", "add", "OTHER", "10.0.0.1", "104"))
    assert_succeeded(listener.run_pacs("index", "backup", "--keep", "2"))
    (listed,) = json.loads(assert_succeeded(listener.run_pacs("index", "backups", "--format", "json")).stdout)
    assert_succeeded(storescu(listener.scp, Study("MR", instances=2).write(tmp_path / "later")))
    eventually(lambda: len(dump(listener)["instance"]) == 20, what="what arrived after the backup")
    before = dump(listener)
    drop_index(listener)
    assert_succeeded(listener.run_pacs("index", "restore", listed["backup"], "--yes"))
    assert len(dump(listener)["instance"]) == 18
    assert "OTHER" in assert_succeeded(listener.run_pacs("peer", "list")).stdout
    assert_succeeded(listener.run_pacs("index", "rebuild", "--into-existing", "--yes"))
    assert dump(listener) == before
    refused = listener.run_pacs("index", "restore", "--yes")
    assert refused.returncode == 2
    assert "not empty" in refused.stdout
