"""Films, printed by pynetdicom and by DCMTK (PS3.4 annex H)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pynetdicom import AE, evt

from tests.support.archive import Listener
from tests.support.dcmtk import Scp
from tests.support.printing import GRAY, Pixels, PrintScu, printing
from tests.support.processes import assert_succeeded, daemon, free_ports, run
from tests.support.synthetic import Study
from tests.support.waiting import eventually

NewListener = Callable[..., Listener]

DCMTK = """\
[[GENERAL]]
[PRINT]
Directory = {folder}/spool
[DATABASE]
Directory = {folder}/database
[NETWORK]
aetitle = WORKSTATION
[[COMMUNICATION]]
[ARCHIVE]
Hostname = {scp.host}
Port = {scp.port}
Aetitle = {scp.ae_title}
Description = the archive
Type = {kind}
DisplayFormat = 1,1\\2,1
FilmSizeID = A4\\14INX17IN
Supports12Bit = true
SupportsPresentationLUT = true
MagnificationType = NONE\\BILINEAR
"""


WHOLE_RANGE = {"WindowCenter": 2048, "WindowWidth": 4096}  # every value is shown (PS3.3 C.11.2.1.2.1)


def noise(rows: int, columns: int, *, high: int = 256, color: bool = False) -> Pixels:
    shape = (rows, columns, 3) if color else (rows, columns)
    return np.random.default_rng(rows + columns).integers(0, high, size=shape, dtype=np.uint8 if high == 256 else np.uint16)


def printed(listener: Listener, *, jobs: int = 1) -> Sequence[Path]:
    """The folders of all jobs, in the order in which they were asked for, once that many are printed."""
    query = "SELECT path FROM print_job WHERE state = 'printed' ORDER BY requested_at"
    rows = eventually(lambda: found if len(found := listener.sql(query)) == jobs else None, within=120, what="the prints")
    return [listener.home / "prints" / str(row["path"]) for row in rows]


def page(folder: Path, number: int = 1) -> Pixels:
    with Image.open(folder / f"page-{number}.png") as image:
        return np.asarray(image)


def shown(on: Pixels, sent: Pixels, *, column: int = 0, columns: int = 1, dpi: int = 300) -> Pixels:
    """What is in the middle of a box of a row, as large as what was sent: nothing is scaled, a margin is 5 mm and a gap 2 mm."""
    margin, gap = round(5 * dpi / 25.4), round(2 * dpi / 25.4)
    room = on.shape[1] - 2 * margin - (columns - 1) * gap
    left, right = margin + column * gap + room * column // columns, margin + column * gap + room * (column + 1) // columns
    y = margin + (on.shape[0] - 2 * margin - sent.shape[0]) // 2
    x = left + (right - left - sent.shape[1]) // 2
    return on[y : y + sent.shape[0], x : x + sent.shape[1]]


def print_one(scu: PrintScu, sent: Pixels) -> None:
    assert scu.open_session() == 0x0000
    assert scu.open_film(MagnificationType="NONE") == 0x0000
    assert scu.set_image(1, sent) == 0x0000
    assert scu.print_film() == 0x0000


def test_a_film_is_on_disk_as_it_was_sent_and_sql_tells_of_it(new_listener: NewListener, tmp_path: Path) -> None:
    listener = new_listener()
    left, right = noise(512, 500), noise(300, 701)
    with printing(listener.scp) as scu:
        assert scu.printer().PrinterStatus == "NORMAL"
        assert scu.open_session(FilmSessionLabel="Thorax", NumberOfCopies=2, PrintPriority="HIGH") == 0x0000
        assert scu.open_film("STANDARD\\2,1", FilmSizeID="A4", MagnificationType="NONE", BorderDensity="WHITE") == 0x0000
        assert scu.set_image(1, left) == 0x0000
        assert scu.set_image(2, right) == 0x0000
        assert scu.print_film() == 0x0000
        assert scu.delete_film() == 0x0000
        assert scu.delete_session() == 0x0000
    (folder,) = printed(listener)
    assert sorted(path.name for path in folder.iterdir()) == ["job.pdf", "page-1.png"]
    paper = page(folder)
    assert paper.shape == (3508, 2480)
    assert np.array_equal(shown(paper, left, column=0, columns=2), left)
    assert np.array_equal(shown(paper, right, column=1, columns=2), right)
    assert (paper[0] == 255).all()
    assert_succeeded(run(["pdfimages", "-png", folder / "job.pdf", tmp_path / "found"]))
    with Image.open(tmp_path / "found-000.png") as image:
        assert np.array_equal(np.asarray(image), paper)
    columns = "calling_ae, FilmSessionLabel, NumberOfCopies, PrintPriority, pages, images, state, attempts, StudyInstanceUID"
    (row,) = listener.sql(f"SELECT {columns} FROM print_job")
    assert list(row.values()) == ["CT1", "Thorax", 2, "HIGH", 1, 2, "printed", 1, ""]
    operations = "SELECT calling_ae FROM association WHERE CAST(operations AS text) LIKE '%N-ACTION 0000%'"
    eventually(lambda: listener.sql(operations) == [{"calling_ae": "CT1"}], what="the record of the association")
    eventually(lambda: not list((listener.home / "print").glob("*/*")), what="an empty spool")


def test_a_session_is_one_document_and_color_is_color(new_listener: NewListener) -> None:
    listener = new_listener(PACS_PRINT_DPI="100")
    sent = [noise(100, 120, color=True), noise(101, 121, color=True)]
    with printing(listener.scp, color=True) as scu:
        assert scu.open_session() == 0x0000
        for image in sent:
            assert scu.open_film(FilmOrientation="LANDSCAPE", FilmSizeID="8INX10IN", MagnificationType="NONE") == 0x0000
            assert scu.set_image(1, image) == 0x0000
        assert scu.print_session() == 0x0000
    (folder,) = printed(listener)
    for number, image in enumerate(sent, 1):
        paper = page(folder, number)
        assert paper.shape == (800, 1000, 3)
        assert np.array_equal(shown(paper, image, dpi=100), image)
    assert "Pages:           2" in assert_succeeded(run(["pdfinfo", folder / "job.pdf"])).stdout


def test_twelve_bits_are_printed_as_eight(new_listener: NewListener) -> None:
    listener = new_listener(PACS_PRINT_DPI="100")
    sent = noise(200, 201, high=4096)
    with printing(listener.scp) as scu:
        print_one(scu, sent)
    (folder,) = printed(listener)
    assert np.array_equal(shown(page(folder), sent, dpi=100), np.rint(sent * (255 / 4095)).astype(np.uint8))


def dcmtk_config(folder: Path, scp: Scp, kind: str) -> Path:
    """Of DCMTK's print tools: a printer that is called, or one that it is itself."""
    for name in ("spool", "database"):
        (folder / name).mkdir()
    config = folder / "printer.cfg"
    config.write_text(DCMTK.format(folder=folder, scp=scp, kind=kind))
    return config


def test_dcmtk_prints(new_listener: NewListener, tmp_path: Path) -> None:
    listener = new_listener()
    images = Study("MR", instances=2, attributes=WHOLE_RANGE).write(tmp_path / "in")
    config = dcmtk_config(tmp_path, listener.scp, "PRINTER")
    layout = ("--layout", "2", "1", "--filmsize", "A4", "--magnification", "NONE", "--identity", "--illumination", "2000")
    assert_succeeded(run(["dcmpsprt", "-c", config, "-p", "ARCHIVE", *layout, *images]))
    (stored,) = (tmp_path / "database").glob("SP*")
    assert_succeeded(run(["dcmprscu", "-v", "-c", config, "-p", "ARCHIVE", stored]))
    (folder,) = printed(listener)
    paper = page(folder)
    for column, path in enumerate(images):
        sent = np.frombuffer(dcmread(path).PixelData, np.uint16).reshape(128, 128)
        on_film = shown(paper, sent, column=column, columns=2).astype(int)
        assert abs(on_film - sent * (255 / 4095)).max() <= 1
    assert listener.sql("SELECT calling_ae, pages, images FROM print_job") == [{"calling_ae": "WORKSTATION", "pages": 1, "images": 2}]


@pytest.mark.parametrize("color", [False, True])
def test_pages_are_stored_as_instances_that_dciodvfy_accepts(new_listener: NewListener, color: bool) -> None:
    listener = new_listener(PACS_PRINT_STORE="true", PACS_PRINT_DPI="72")
    sent = noise(100, 101, color=color)
    with printing(listener.scp, color=color) as scu:
        assert scu.open_session(FilmSessionLabel="Thorax Müller", SpecificCharacterSet="ISO_IR 100") == 0x0000
        for _ in range(2):
            assert scu.open_film("STANDARD\\1,1", MagnificationType="NONE", FilmSizeID="8INX10IN") == 0x0000
            assert scu.set_image(1, sent) == 0x0000
        assert scu.print_session() == 0x0000
    printed(listener)
    rows = listener.sql(
        "SELECT i.path, StudyDescription, Modality, InstanceNumber FROM instance i JOIN series USING (StudyInstanceUID, SeriesInstanceUID)"
        " JOIN study USING (StudyInstanceUID) JOIN print_job j USING (StudyInstanceUID) ORDER BY InstanceNumber"
    )
    assert [(row["StudyDescription"], row["Modality"], row["InstanceNumber"]) for row in rows] == [
        ("Thorax Müller", "OT", 1),
        ("Thorax Müller", "OT", 2),
    ]
    path = listener.home / "hot" / str(rows[0]["path"])
    found = run(["dciodvfy", path]).stdout.splitlines()
    assert found[0] == "SCImage"
    # Nobody knows the laterality of what was printed.
    assert [line for line in found[1:] if "only permitted to be empty when actually unknown" not in line or "Laterality" not in line] == []
    assert np.array_equal(shown(dcmread(path).pixel_array, sent, dpi=72), sent)


def test_a_renderer_that_is_killed_has_its_job_done_by_another(new_listener: NewListener) -> None:
    listener = new_listener(PACS_PRINT_STORE="true", PACS_PRINT_DPI="300")
    sent = noise(1000, 1000)
    with printing(listener.scp) as scu:
        assert scu.open_session() == 0x0000
        for _ in range(4):
            assert scu.open_film(MagnificationType="NONE") == 0x0000
            assert scu.set_image(1, sent) == 0x0000
        assert scu.print_session() == 0x0000
        eventually(lambda: list((listener.home / "prints").glob(".rendering/*/page-2.png")), what="the second page")
        listener.process.kill()
    assert not list((listener.home / "prints").glob("20*"))
    listener.start()
    (folder,) = printed(listener)
    assert [path.name for path in sorted(folder.iterdir())] == ["job.pdf", *(f"page-{number}.png" for number in range(1, 5))]
    assert np.array_equal(shown(page(folder, 4), sent), sent)
    assert listener.sql("SELECT attempts, state FROM print_job") == [{"attempts": 2, "state": "printed"}]
    assert listener.sql("SELECT count(*) AS n FROM instance") == [{"n": 4}]
    eventually(lambda: not list((listener.home / "print").glob("*/*")), what="an empty spool")
    assert not list((listener.home / "prints" / ".rendering").iterdir())


def test_who_may_not_print_is_told_so(new_listener: NewListener) -> None:
    listener = new_listener()
    assert_succeeded(listener.run_pacs("peer", "add", "CT1", "127.0.0.1", "104", "--may", "store"))
    with printing(listener.scp) as scu:
        assert scu.open_session() == 0x0124


def test_we_print_on_ourselves(new_listener: NewListener, tmp_path: Path) -> None:
    listener = new_listener(PACS_PRINT_DPI="100")
    Study("MR", instances=3, attributes=WHOLE_RANGE).write(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    asked = ("--layout", "2x1", "--size", "8INX10IN", "--magnification", "NONE", "--label", "Übersicht", "--copies", "2")
    done = listener.run_pacs("print", tmp_path / "in", *asked)
    assert done.returncode == 1
    assert "notes.txt: not printed" in done.stdout
    for line in ("film 1: 2 images", "film 2: 1 images", "2 films printed on PACS; 1 files could not be"):
        assert line in done.stdout.splitlines()
    printed(listener, jobs=2)
    assert listener.sql("SELECT DISTINCT FilmSessionLabel, NumberOfCopies FROM print_job") == [
        {"FilmSessionLabel": "Übersicht", "NumberOfCopies": 2}
    ]


def test_we_print_on_dcmtk(new_listener: NewListener, tmp_path: Path) -> None:
    listener = new_listener()
    images = Study("MR", instances=3, attributes=WHOLE_RANGE).write(tmp_path / "in")
    (port,) = free_ports(1)
    config = dcmtk_config(tmp_path, Scp(port, "FILM"), "LOCALPRINTER")
    with daemon(["dcmprscp", "-v", "-c", str(config), "-p", "ARCHIVE"], log=tmp_path / "dcmprscp.log") as printer:
        printer.wait_for_port(port, within=10)
        asked = ("--layout", "2x1", "--size", "A4", "--magnification", "NONE")
        assert_succeeded(listener.run_pacs("print", tmp_path / "in", "--peer", f"FILM@127.0.0.1:{port}", *asked))
    kept = [dcmread(path) for path in (tmp_path / "database").glob("*.dcm")]
    films = [ds for ds in kept if "FilmBoxContentSequence" in ds]
    assert [str(ds.FilmBoxContentSequence[0].ImageDisplayFormat).split("\\")[-1] for ds in films] == ["2,1", "2,1"]
    received = {ds.PixelData for ds in kept if "PixelData" in ds}
    sent = [np.frombuffer(dcmread(path).PixelData, np.uint16) for path in images]
    assert received == {np.rint(values * (255 / 4095)).astype(np.uint8).tobytes() for values in sent}


def test_we_print_on_others_and_tell_what_they_say(new_listener: NewListener, tmp_path: Path) -> None:
    listener = new_listener()
    Study("MR").write(tmp_path / "in")
    seen: list[str] = []
    (port,) = free_ports(1)

    def answer(event: evt.Event) -> tuple[int, object]:
        seen.append(type(event.request).__name__)
        if seen[-1] == "N_CREATE" and len(seen) == 2:
            film = event.attribute_list
            assert film.ImageDisplayFormat == "STANDARD\\1,1"
            film.ReferencedImageBoxSequence = [film.ReferencedFilmSessionSequence[0]]
            return 0x0000, film
        return (0x0116 if seen[-1] == "N_SET" else 0xC602 if seen[-1] == "N_ACTION" else 0x0000), None

    ae = AE("PRINTER")
    ae.add_supported_context(GRAY)
    kinds = (evt.EVT_N_CREATE, evt.EVT_N_SET, evt.EVT_N_ACTION, evt.EVT_N_DELETE)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(kind, answer) for kind in kinds])
    assert server is not None
    done = listener.run_pacs("print", tmp_path / "in", "--peer", f"PRINTER@{Scp(port).host}:{port}")
    server.shutdown()
    assert done.returncode == 1
    assert "PRINTER answered with status C602" in done.stdout
    assert seen == ["N_CREATE", "N_CREATE", "N_SET", "N_ACTION"]
