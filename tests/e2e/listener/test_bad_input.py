"""Whatever arrives, the archive answers with the status that tells what is wrong, and stays up."""

import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, config, dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.support import dcmtk, scu
from tests.support.archive import PACS, Listener
from tests.support.catalog import Catalogs
from tests.support.part10 import assert_identical, dataset_bytes
from tests.support.processes import assert_succeeded, clean_environment, run
from tests.support.raw import raw_association, store_command
from tests.support.synthetic import Study
from tests.support.waiting import eventually

NewListener = Callable[..., Listener]

SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND, INVALID_INSTANCE = 0x0000, 0xA700, 0xA900, 0xC000, 0x0117

needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")


def _encode(ds: Dataset) -> bytes:
    buffer = DicomBytesIO()
    dcmwrite(buffer, ds, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def _mr(**uids: str) -> Dataset:
    """An instance, with the given UIDs whether or not they are any."""
    (ds,) = Study("MR").datasets()
    for keyword, value in uids.items():
        ds[keyword] = DataElement(tag_for_keyword(keyword) or 0, "UI", value, validation_mode=config.IGNORE)
    return ds


def _store(listener: Listener, ds: Dataset, *, sop_class: str = MRImageStorage, sop_instance: str | None = None) -> int:
    return scu.store_bytes(listener.scp, _encode(ds), sop_class=sop_class, sop_instance=sop_instance or ds.SOPInstanceUID)


def _files_below(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file()}


def _assert_alive_and_empty(listener: Listener, study: str) -> None:
    assert_succeeded(dcmtk.echoscu(listener.scp))
    assert listener.sql(f"SELECT SOPInstanceUID FROM instance WHERE StudyInstanceUID = '{study}'") == []


class TestDataSets:
    """C-STORE of what is not as it should be."""

    @pytest.mark.parametrize("data", [b"\x00" * 4096, b"GIF89a" + bytes(range(256)) * 8, b"<html>" * 100, os.urandom(10_000)])
    def test_what_is_not_dicom_cannot_be_understood(self, listener: Listener, data: bytes) -> None:
        status = scu.store_bytes(listener.scp, data, sop_class=MRImageStorage, sop_instance=generate_uid())
        assert status in (CANNOT_UNDERSTAND, MISMATCH)  # zeros are elements of a kind, without any UID among them
        assert_succeeded(dcmtk.echoscu(listener.scp))

    def test_an_empty_data_set_is_refused(self, listener: Listener) -> None:
        status = scu.store_bytes(listener.scp, b"", sop_class=MRImageStorage, sop_instance=generate_uid())
        assert status in (CANNOT_UNDERSTAND, MISMATCH)

    @pytest.mark.parametrize("cut", [3, 100, 20_000, -7])
    def test_a_data_set_that_is_cut_short_is_refused(self, listener: Listener, cut: int) -> None:
        ds = _mr()
        status = scu.store_bytes(listener.scp, _encode(ds)[:cut], sop_class=MRImageStorage, sop_instance=ds.SOPInstanceUID)
        assert status == CANNOT_UNDERSTAND
        _assert_alive_and_empty(listener, ds.StudyInstanceUID)

    @pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
    def test_a_data_set_without_its_uids_does_not_match(self, listener: Listener, keyword: str) -> None:
        ds = _mr()
        uid, study = ds.SOPInstanceUID, ds.StudyInstanceUID
        delattr(ds, keyword)
        assert _store(listener, ds, sop_instance=uid) == MISMATCH
        _assert_alive_and_empty(listener, study)

    def test_a_data_set_of_another_instance_than_announced_does_not_match(self, listener: Listener) -> None:
        ds = _mr()
        assert _store(listener, ds, sop_instance=generate_uid()) == MISMATCH
        _assert_alive_and_empty(listener, ds.StudyInstanceUID)

    def test_a_data_set_of_another_class_than_announced_does_not_match(self, listener: Listener) -> None:
        ds = _mr()
        assert _store(listener, ds, sop_class=CTImageStorage) == MISMATCH
        _assert_alive_and_empty(listener, ds.StudyInstanceUID)

    @pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
    @pytest.mark.parametrize("value", ["../../x", "/etc/cron.d/x", "1.2.3/../../../../x", "1.2..3", "1.02.3", "1.2.x", "1" * 65])
    def test_a_uid_that_is_none_is_refused_and_reaches_no_path(self, listener: Listener, keyword: str, value: str) -> None:
        surroundings = listener.home.parent
        before = _files_below(surroundings)
        status = _store(listener, _mr(**{keyword: value}))
        assert status == INVALID_INSTANCE
        new = {path for path in _files_below(surroundings) - before if path.suffix == ".dcm" and ".quarantine" not in path.parts}
        assert new == set()

    def test_an_invalid_uid_is_stored_under_a_digest_where_allowed(self, new_listener: NewListener) -> None:
        listener = new_listener(PACS_INVALID_UIDS="digest")
        ds = _mr(SOPInstanceUID="1.2..3", StudyInstanceUID="1.02.3")
        assert _store(listener, ds) == SUCCESS
        (row,) = listener.sql("SELECT SOPInstanceUID, StudyInstanceUID, path FROM instance")
        assert (row["SOPInstanceUID"], row["StudyInstanceUID"]) == ("1.2..3", "1.02.3")
        assert "1.2..3" not in row["path"]
        assert dataset_bytes(listener.home / "hot" / row["path"]) == _encode(ds)


class TestAssociations:
    """Bytes on the DICOM port that are not what the Standard says."""

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client hello
            b"\x01\x00" + struct.pack(">L", 0xFFFFFFFF) + b"\x00\x01",  # an A-ASSOCIATE-RQ of 4 GiB
            b"\x04\x00" + struct.pack(">L", 100) + b"\x00" * 100,  # P-DATA before any association
            b"\x01\x00" + struct.pack(">L", 68) + b"\x00" * 68,  # an A-ASSOCIATE-RQ of zeros
            b"\x99" * 1000,
        ],
    )
    def test_what_is_no_association_request_is_hung_up_on(self, listener: Listener, data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", listener.dicom_port), timeout=60) as connection:
            connection.sendall(data)
            while connection.recv(4096):  # an A-ABORT or nothing, then the end
                pass
        assert_succeeded(dcmtk.echoscu(listener.scp))

    def test_a_client_that_says_nothing_is_hung_up_on(self, new_listener: NewListener) -> None:
        listener = new_listener(PACS_ASSOCIATION_TIMEOUT="1")
        with socket.create_connection(("127.0.0.1", listener.dicom_port), timeout=30) as connection:
            while connection.recv(4096):
                pass

    def test_a_client_that_vanishes_while_it_sends_leaves_nothing(self, listener: Listener) -> None:
        ds = _mr()
        with raw_association(listener.scp, MRImageStorage, ExplicitVRLittleEndian) as assoc:
            assoc.send(store_command(MRImageStorage, ds.SOPInstanceUID), control=3)
            assoc.send(_encode(ds)[:8000], control=0)  # more to come
        _assert_alive_and_empty(listener, ds.StudyInstanceUID)
        incoming = listener.home / "hot" / ".incoming"
        eventually(lambda: not incoming.exists() or not _files_below(incoming), what="the unfinished file removed")

    @pytest.mark.parametrize("title", ["../../ETC", "A B C", "'; DROP TABLE --", "%s%n", "$(reboot)", "<script>"])
    def test_an_odd_calling_title_is_only_a_title(self, listener: Listener, title: str) -> None:
        ds = _mr()
        status = scu.store_bytes(listener.scp, _encode(ds), sop_class=MRImageStorage, sop_instance=ds.SOPInstanceUID, calling=title)
        assert status == SUCCESS
        (row,) = listener.sql(f"SELECT path FROM instance WHERE SOPInstanceUID = '{ds.SOPInstanceUID}'")
        assert row["path"] == f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm"

    @pytest.mark.parametrize("title", ["../x", "' OR 1=1 --"])
    def test_an_odd_move_destination_is_unknown(self, listener: Listener, title: str) -> None:
        moved = dcmtk.movescu(listener.scp, title, "study", "STUDY", {"StudyInstanceUID": "1.2.3"})
        assert moved.status == 0xA801, moved.output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


class TestEnvironment:
    """What fails around the archive."""

    @needs_mount
    def test_a_full_disk_answers_out_of_resources_and_loses_nothing(
        self, new_listener: NewListener, small_disk: Path, tmp_path: Path
    ) -> None:
        listener = new_listener(small_disk / "home")
        files = Study("CT", instances=30).write(tmp_path / "sent")  # 16 MB
        statuses = {path: scu.store_file(listener.scp, path) for path in files}
        assert set(statuses.values()) == {SUCCESS, OUT_OF_RESOURCES}

        kept = [path for path, status in statuses.items() if status == SUCCESS]
        rows = listener.sql("SELECT path FROM instance")
        assert_identical(kept, [listener.home / "hot" / row["path"] for row in rows])
        assert_succeeded(dcmtk.echoscu(listener.scp))

        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        assert {scu.store_file(listener.scp, path) for path in files} == {SUCCESS}

    @needs_mount
    def test_a_read_only_home_is_named_in_one_clear_line(self, small_disk: Path, catalogs: Catalogs) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        home = small_disk / "home"
        env = clean_environment(PACS_HOME=str(home), PACS_CATALOG_URL=catalogs.new())
        for command in ("listen", "up"):
            done = run([PACS, command], env=env, timeout=20)
            assert done.returncode in (1, 2)
            assert str(home) in done.stdout
            assert "Traceback" not in done.stdout

    def test_a_home_that_is_a_file_is_named_in_one_clear_line(self, tmp_path: Path, catalogs: Catalogs) -> None:
        home = tmp_path / "home"
        home.write_text("not a directory")
        done = run([PACS, "listen"], env=clean_environment(PACS_HOME=str(home), PACS_CATALOG_URL=catalogs.new()), timeout=20)
        assert done.returncode in (1, 2)
        assert str(home) in done.stdout
        assert "Traceback" not in done.stdout

    def test_a_listener_killed_while_it_receives_has_kept_what_it_acknowledged(self, new_listener: NewListener, tmp_path: Path) -> None:
        listener = new_listener()
        acknowledged = _store_until_failure(listener, tmp_path, after=30, interrupt=listener.process.kill)
        listener.start()
        _assert_held_once(listener, acknowledged)

    def test_postgresql_killed_while_instances_arrive_loses_nothing_that_was_acknowledged(self, tmp_path: Path) -> None:
        catalogs = Catalogs(tmp_path / "catalog")
        catalogs.start()
        listener = Listener(tmp_path / "home", catalog_url=catalogs.new())
        listener.start()
        try:
            files = Study("MR", instances=60).write(tmp_path / "sent")
            statuses = {}
            for number, path in enumerate(files):
                if number == 20:
                    catalogs.kill()
                if number == 40:
                    catalogs.start()
                statuses[path] = scu.store_file(listener.scp, path)
            assert set(statuses.values()) <= {SUCCESS, OUT_OF_RESOURCES}
            assert all(statuses[path] == SUCCESS for path in files[:20])
            acknowledged = [path for path, status in statuses.items() if status == SUCCESS]
            _assert_held_once(listener, acknowledged)
            assert scu.store_file(listener.scp, files[-1]) == SUCCESS
        finally:
            listener.stop()
            catalogs.stop()


def _store_until_failure(listener: Listener, directory: Path, *, after: int, interrupt: Callable[[], None]) -> list[Path]:
    """Store on one association; call `interrupt` in the middle; what was acknowledged."""
    files = Study("MR", instances=2 * after).write(directory / "sent")
    acknowledged = []
    with raw_association(listener.scp, MRImageStorage, ExplicitVRLittleEndian) as assoc:
        for number, path in enumerate(files):
            if number == after:
                interrupt()
            status = assoc.store(dataset_bytes(path), sop_class=MRImageStorage, sop_instance=path.stem)
            if status != SUCCESS:
                break
            acknowledged.append(path)
    assert len(acknowledged) >= after
    return acknowledged


def _assert_held_once(listener: Listener, acknowledged: list[Path]) -> None:
    """Each acknowledged instance is indexed exactly once and stored with the bytes that were sent."""

    def indexed() -> list[Path] | None:
        done = listener.run_pacs("sql", "-c", "SELECT path FROM instance", "--format", "csv")
        paths = [listener.home / "hot" / line for line in done.stdout.splitlines() if line.endswith(".dcm")]
        return paths if done.returncode == 0 and len(paths) >= len(acknowledged) else None

    found = eventually(indexed, within=60, what="the index complete") or []
    assert len(found) == len({path.name for path in found})
    assert_identical(acknowledged, [path for path in found if path.name in {sent.name for sent in acknowledged}])
