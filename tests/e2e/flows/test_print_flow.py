"""The flow that removes prints."""

from pydicom.uid import generate_uid

from tests.support.archive import Archive
from tests.support.printing import printing
from tests.support.processes import assert_succeeded
from tests.support.waiting import eventually


def test_prints_go_once_they_have_been_kept_long_enough_and_a_dry_run_only_says_so(archive: Archive) -> None:
    label = f"L{generate_uid()[-10:]}"
    with printing(archive.scp) as scu:
        assert scu.open_session(FilmSessionLabel=label) == 0x0000
        assert scu.open_film(FilmSizeID="8INX10IN") == 0x0000
        assert scu.print_film() == 0xB603  # an empty page
    printed = f"SELECT job, path FROM print_job WHERE state = 'printed' AND FilmSessionLabel = '{label}'"
    (row,) = eventually(lambda: archive.sql(printed), within=60, what="the print")
    folder = archive.home / "prints" / str(row["path"])
    assert (folder / "job.pdf").exists()
    done = assert_succeeded(archive.run_pacs("flow", "run", "print-cleanup"))
    assert "0 prints removed" in done.stdout  # the setting says 30 days
    done = assert_succeeded(archive.run_pacs("flow", "run", "print-cleanup", "-P", "keep_days=0", "-P", "dry_run=true"))
    assert "dry run: 1 prints would be removed" in done.stdout
    assert folder.exists()
    done = assert_succeeded(archive.run_pacs("flow", "run", "print-cleanup", "-P", "keep_days=0"))
    assert "1 prints removed" in done.stdout
    assert not folder.exists()
    assert archive.sql(f"SELECT state, FilmSessionLabel FROM print_job WHERE job = '{row['job']}'") == [
        {"state": "removed", "FilmSessionLabel": ""}
    ]
