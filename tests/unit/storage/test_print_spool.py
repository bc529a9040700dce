"""Images on their way to being printed, and the folders of what was (storage.scratch, print_spool, prints)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_core.errors import PrinterFull, StorageFull
from pacs_core.storage.print_spool import PrintSpool, SessionImages
from pacs_core.storage.prints import Prints
from pacs_core.storage.scratch import ScratchDirectory, sweep
from tests.support.waiting import eventually

JOB, OTHER = "2.25.1", "2.25.2"


@pytest.fixture
def spool(tmp_path: Path) -> PrintSpool:
    return PrintSpool(tmp_path / "print", limit=100)


@pytest.fixture
def images(spool: PrintSpool) -> Iterator[SessionImages]:
    opened = spool.open()
    yield opened
    opened.close()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def pending_none() -> list[str]:
    return []


def test_what_a_killed_process_leaves_is_swept_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    living = ScratchDirectory(tmp_path)
    program = f"""
from pathlib import Path
from pacs_core.storage.scratch import ScratchDirectory
(ScratchDirectory(Path({str(tmp_path)!r})).path / "left").write_bytes(b"x")
print("made", flush=True)
import signal; signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        assert sweep(tmp_path) == 0
        process.send_signal(signal.SIGKILL)
    assert sweep(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [living.path.name]
    living.close()
    living.close()
    assert list(tmp_path.iterdir()) == []


def test_the_images_of_an_association_end_with_it_but_for_those_that_were_handed_over(tmp_path: Path, spool: PrintSpool) -> None:
    images = spool.open()
    kept, replaced = images.add(b"kept"), images.add(b"replaced")
    images.hand_over(JOB, [kept])
    images.retain([kept])
    assert not any(replaced in name for name in files(tmp_path))
    images.close()
    assert files(tmp_path) == [f"print/jobs/{JOB}/{kept}"]
    assert spool.file(JOB, kept).read_bytes() == b"kept"
    spool.forget(JOB)
    spool.forget(JOB)
    assert files(tmp_path) == []


def test_an_image_that_was_handed_over_counts_once(spool: PrintSpool, images: SessionImages) -> None:
    images.hand_over(JOB, [images.add(bytes(60))])
    images.add(bytes(40))
    with pytest.raises(PrinterFull):
        images.add(b"1")


def test_a_full_disk_takes_no_image_and_leaves_nothing_of_it(small_disk: Path) -> None:
    images = PrintSpool(small_disk / "print", limit=1 << 30).open()
    images.add(bytes(600_000))
    with pytest.raises(StorageFull):
        images.add(bytes(600_000))
    with pytest.raises(StorageFull), images.message() as file:
        file.write(bytes(600_000))
    assert [path.stat().st_size for path in small_disk.rglob("*.pixels")] == [600_000]
    images.close()


def test_the_reserve_is_left_to_others(small_disk: Path) -> None:
    images = PrintSpool(small_disk / "print", limit=1 << 30, reserve=1 << 20).open()
    images.add(bytes(500_000))
    images.add(bytes(500_000))
    with pytest.raises(StorageFull):
        images.add(b"1")
    images.close()


def test_the_images_of_a_job_that_nobody_has_entered_are_swept_after_a_while(
    tmp_path: Path, spool: PrintSpool, images: SessionImages
) -> None:
    name = images.add(b"pixels")
    images.hand_over(JOB, [name])
    images.hand_over(OTHER, [name])
    assert spool.sweep(pending_none) == 0  # they may be about to be entered
    for job in (JOB, OTHER):
        os.utime(tmp_path / "print" / "jobs" / job, (time.time() - 3600,) * 2)
    assert spool.sweep(lambda: [OTHER]) == 1
    assert spool.file(OTHER, name).exists()
    assert not spool.file(JOB, name).exists()


def test_a_message_on_its_way_has_no_name(tmp_path: Path, images: SessionImages) -> None:
    with images.message() as file:
        file.write(b"message")
        assert [name for name in files(tmp_path) if not name.endswith(".lock")] == []


def test_a_print_appears_whole_and_once(tmp_path: Path) -> None:
    prints = Prints(tmp_path)
    for content in (b"first", b"second"):
        place = prints.workplace()
        (place.path / "job.pdf").write_bytes(content)
        prints.place(place.path, "2026-11-28/1")
        place.close()
    assert (tmp_path / "2026-11-28" / "1" / "job.pdf").read_bytes() == b"first"
    assert files(tmp_path) == ["2026-11-28/1/job.pdf"]


def test_a_print_is_removed_with_the_last_of_its_day(tmp_path: Path) -> None:
    prints = Prints(tmp_path)
    for name in ("1", "2"):
        place = prints.workplace()
        prints.place(place.path, f"2026-11-28/{name}")
        place.close()
    prints.remove("2026-11-28/1")
    assert (tmp_path / "2026-11-28" / "2").exists()
    prints.remove("2026-11-28/2")
    prints.remove("2026-11-28/2")
    eventually(lambda: not (tmp_path / "2026-11-28").exists(), what="nothing of the day")
    for outside in ("../x", ".rendering"):
        with pytest.raises(ValueError, match="no name of a print"):
            prints.remove(outside)
