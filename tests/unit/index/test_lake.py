import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from pacs_core.dicom.patterns import fold
from pacs_core.errors import ConfigurationError, IndexUnavailable
from pacs_core.index import lake
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.lake import Engine, LakeReader, open_duckdb, prepare_index
from pacs_core.index.postgres import Database
from pacs_core.index.sql import SQLSession
from tests.support.catalog import Catalogs
from tests.support.records import record
from tests.unit.index.conftest import Place, kill_postgres

READ = """
import sys
import unicodedata
from pacs_core.index.lake import LakeReader
print(next(LakeReader(sys.argv[1], sys.argv[2]).rows("SELECT count(*) FROM lake.instance"))[0])
"""

SPILL = """
from pacs_core.index.lake import Engine, open_duckdb
connection = open_duckdb(Engine())
print(connection.execute("SELECT current_setting('temp_directory')").fetchone()[0])
"""


def test_preparing_is_repeatable_and_safe_from_several_threads(catalogs: Catalogs, tmp_path: Path) -> None:
    url = catalogs.new()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: prepare_index(url, str(tmp_path)), range(3)))
    reader = LakeReader(url, str(tmp_path))
    assert list(reader.rows("SELECT count(*) FROM lake.instance")) == [(0,)]
    reader.close()


def test_a_column_that_an_older_version_lacked_is_added(place: Place, writer: LakeIndexWriter) -> None:
    writer.commit([record(1)])
    writer._lake.execute("ALTER TABLE lake.study DROP COLUMN StudyID")  # type: ignore[union-attr]
    prepare_index(place.catalog_url, place.data_path)
    reader = LakeReader(place.catalog_url, place.data_path)
    assert list(reader.rows("SELECT StudyInstanceUID, StudyID FROM lake.study")) == [("1.1", None)]
    reader.close()


def test_a_reader_cannot_write(place: Place) -> None:
    reader = LakeReader(place.catalog_url, place.data_path)
    with pytest.raises(IndexUnavailable):
        list(reader.rows("DELETE FROM lake.instance"))
    reader.close()


def test_the_index_can_be_moved_with_its_home(place: Place, writer: LakeIndexWriter, tmp_path: Path) -> None:
    writer.commit([record(number) for number in range(60)])
    writer.close()
    moved = tmp_path / "moved"
    shutil.move(place.data_path, moved)
    reader = LakeReader(place.catalog_url, str(moved))
    assert len(list(reader.rows("SELECT SOPInstanceUID FROM lake.instance"))) == 60
    reader.close()


def test_several_processes_read_at_once(place: Place, writer: LakeIndexWriter) -> None:
    writer.commit([record(1)])
    command = [sys.executable, "-c", READ, place.catalog_url, place.data_path]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [child.communicate(timeout=60)[0] for child in children] == ["1\n"] * 3


def test_postgres_killed_in_the_middle_of_a_query_neither_hangs_nor_crashes_it(new_place: Callable[[], Place], catalogs: Catalogs) -> None:
    place = new_place()
    reader = LakeReader(place.catalog_url, place.data_path)
    rows = reader.rows("SELECT i FROM lake.instance RIGHT JOIN range(3000000) t(i) ON true")
    next(rows)
    kill_postgres(catalogs)
    try:
        for _ in rows:
            pass
    except IndexUnavailable:
        pass
    finally:
        catalogs.start()
    assert list(reader.rows("SELECT count(*) FROM lake.instance")) == [(0,)]
    reader.close()


def spill_directory(connection: duckdb.DuckDBPyConnection) -> Path:
    row = connection.execute("SELECT current_setting('temp_directory')").fetchone()
    assert row is not None
    return Path(row[0])


def test_each_instance_spills_to_a_directory_of_its_own_that_goes_with_it() -> None:
    instances = [open_duckdb(Engine(threads=1, memory_limit="40MB")) for _ in range(2)]
    spills = [spill_directory(instance) for instance in instances]
    assert spills[0] != spills[1]
    assert spills[0].parent.stat().st_mode & 0o077 == 0
    for instance in instances:
        rows = instance.execute("SELECT i, hash(i)::VARCHAR FROM range(3000000) t(i) ORDER BY hash(i)")
        rows.fetchmany(1)
    assert all(list(spill.iterdir()) for spill in spills)
    for instance in instances:
        instance.close()
    assert not any(spill.exists() for spill in spills)


def test_a_process_leaves_no_directory_to_spill_to_behind() -> None:
    spill = subprocess.run([sys.executable, "-c", SPILL], stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.strip()
    assert spill
    assert not Path(spill).parent.exists()


def test_what_a_killed_process_has_left_goes_with_the_next_one(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    kill = SPILL + "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    live = subprocess.Popen(
        [sys.executable, "-c", SPILL.replace("fetchone()[0])", "fetchone()[0], flush=True)") + "input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
    )
    assert live.stdout is not None
    living = Path(live.stdout.readline().decode().strip()).parent
    subprocess.run([sys.executable, "-c", kill], stdout=subprocess.PIPE, check=False, timeout=60, env=env)
    assert len(list(tmp_path.iterdir())) == 2
    subprocess.run([sys.executable, "-c", SPILL], stdout=subprocess.PIPE, check=True, timeout=60, env=env)
    assert list(tmp_path.iterdir()) == [living]
    live.communicate(b"\n", timeout=60)
    assert live.returncode == 0
    assert not living.exists()


def test_a_thread_that_hangs_while_it_connects_holds_up_no_other_for_long(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake, "_OPENING_PATIENCE", 0.1)
    reader = LakeReader(place.catalog_url, place.data_path)
    with reader._opening:  # as the thread that hangs
        with pytest.raises(IndexUnavailable):
            list(reader.rows("SELECT 1"))
        reader.close()
    assert list(reader.rows("SELECT 1")) == [(1,)]
    reader.close()


def test_a_place_that_cannot_be_used_is_said_so(catalogs: Catalogs) -> None:
    with pytest.raises(IndexUnavailable):
        prepare_index(catalogs.new(), "/proc/nowhere")
    with pytest.raises(ConfigurationError):
        LakeReader("nonsense", "/nowhere")
    with pytest.raises(IndexUnavailable):
        list(LakeReader("postgresql://nobody@127.0.0.1:1/none", "/nowhere").rows("SELECT 1"))


def test_who_asks_while_the_index_is_being_prepared_waits_for_it(catalogs: Catalogs, tmp_path: Path) -> None:
    url = catalogs.new()
    with ThreadPoolExecutor() as pool, SQLSession(url, str(tmp_path)) as session:
        reader = LakeReader(url, str(tmp_path))
        answers = [
            pool.submit(lambda: list(reader.rows("SELECT count(*) FROM lake.instance"))),
            pool.submit(lambda: list(session.run("SELECT count(*) FROM instance").rows())),
        ]
        prepare_index(url, str(tmp_path))
        assert [answer.result() for answer in answers] == [[(0,)], [(0,)]]
        reader.close()


def test_an_index_that_was_never_prepared_is_unavailable(catalogs: Catalogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake, "_PREPARATION_PATIENCE", 0.2)
    url = catalogs.new()
    with pytest.raises(IndexUnavailable, match="pacs up"):
        list(LakeReader(url, str(tmp_path)).rows("SELECT 1 FROM lake.instance"))
    with pytest.raises(IndexUnavailable):
        LakeIndexWriter(url, str(tmp_path)).commit([record(1)])
    database = Database(url)
    with database.transaction() as session:
        assert session.run("SELECT to_regclass('pacs.instance_key')") == [[None]]
    database.close()


def test_names_are_folded_alike_in_python_and_in_duckdb() -> None:
    """For every character that Python's Unicode knows; only then may SQL sort out names before the matcher."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT chr(i::INT) AS c, lower(strip_accents(c)) FROM range(1, 1114112) t(i) WHERE i NOT BETWEEN 55296 AND 57343"
        )
        differing = [character for character, folded in rows.fetchall() if fold(character) != folded]
    assert [character for character in differing if unicodedata.category(character) != "Cn"] == []
