"""The print service, with our own client on the other side: what is refused how, and what is left of it."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from pacs_core.dimse import client
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.command import CommandField
from pacs_core.dimse.listener import Limits, Listener
from pacs_core.dimse.negotiation import LITTLE_ENDIAN, Proposal
from pacs_core.dimse.services import printing
from pacs_core.dimse.services.printing import PrintService
from pacs_core.model import AETitle, Peer
from pacs_core.ports.printing import ClaimedJob, Print, PrintJob
from pacs_core.storage.print_spool import PrintSpool
from pacs_core.workflow.printing import (
    COLOR_BOX,
    FILM_BOX,
    FILM_SESSION,
    GRAY_BOX,
    META_COLOR,
    META_GRAY,
    PRESENTATION_LUT,
    PRINT,
    PRINTER,
    PRINTER_INSTANCE,
)
from tests.support.printing import image_item
from tests.support.waiting import eventually
from tests.unit.dimse.conftest import running


class Jobs:
    """ports.printing.PrintJobs that only takes."""

    def __init__(self) -> None:
        self.entered: list[PrintJob] = []
        self.is_full = False

    def enter(self, job: PrintJob, *, most: int) -> bool:
        if not self.is_full:
            self.entered.append(job)
        return not self.is_full

    def claim(self, lease: timedelta) -> ClaimedJob | None:
        raise NotImplementedError

    def renew(self, uid: str, lease: timedelta) -> None:
        raise NotImplementedError

    def put_off(self, uid: str, error: str, after: timedelta | None) -> None:
        raise NotImplementedError

    def finish(self, uid: str, *, path: str, study: str) -> None:
        raise NotImplementedError

    def pending(self) -> Collection[str]:
        raise NotImplementedError

    def expired(self, before: datetime) -> Sequence[Print]:
        raise NotImplementedError

    def removed(self, uid: str) -> None:
        raise NotImplementedError


class Scu:
    """An association on which anything may be asked."""

    def __init__(self, assoc: Association, meta: str) -> None:
        self.assoc = assoc
        self.meta = meta
        self.boxes: list[str] = []

    def ask(
        self, operation: CommandField, sop_class: str, uid: str, ds: Dataset | None = None, *, type_id: int = 0, context: str = ""
    ) -> int:
        answer, attributes = client.normalized(
            self.assoc, sop_class, operation, uid, ds, type_id=type_id, context_class=context or self.meta
        )
        self.boxes = [str(item.ReferencedSOPInstanceUID) for item in attributes.get("ReferencedImageBoxSequence", ())] or self.boxes
        return answer.Status or 0

    def open(self, display_format: str = "STANDARD\\1,1", **attributes: Any) -> None:
        assert self.ask(CommandField.N_CREATE, FILM_SESSION, "1.1") == 0x0000
        assert self.ask(CommandField.N_CREATE, FILM_BOX, "1.2", film(display_format, **attributes)) == 0x0000

    def set_image(self, ds: Dataset, sop_class: str = GRAY_BOX, **attributes: Any) -> int:
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        return self.ask(CommandField.N_SET, sop_class, self.boxes[0], ds)

    def print(self, sop_class: str = FILM_BOX, uid: str = "1.2", *, type_id: int = PRINT) -> int:
        return self.ask(CommandField.N_ACTION, sop_class, uid, type_id=type_id)


def film(display_format: str, **attributes: Any) -> Dataset:
    parent, ds = Dataset(), Dataset()
    parent.ReferencedSOPClassUID, parent.ReferencedSOPInstanceUID = FILM_SESSION, "1.1"
    ds.ImageDisplayFormat, ds.ReferencedFilmSessionSequence = display_format, [parent]
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def image(rows: int = 10, columns: int = 20, **changes: Any) -> Dataset:
    ds = Dataset()
    ds.ImageBoxPosition = 1
    ds.BasicGrayscaleImageSequence = [image_item(np.full((rows, columns), 7, np.uint8), **changes)]
    return ds


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def printer(tmp_path: Path, jobs: Jobs) -> Iterator[Callable[..., Any]]:
    service = PrintService(jobs, PrintSpool(tmp_path / "print", limit=40_000), dpi=100, ae_title="PACS")
    with running(Listener(("127.0.0.1", 0), ae_title="PACS", services=[service], limits=Limits())) as port:

        @contextmanager
        def associate(meta: str = META_GRAY, *others: str, syntax: str = LITTLE_ENDIAN[0]) -> Iterator[Scu]:
            proposals = [Proposal(each, [syntax]) for each in (meta, *others)]
            assoc = Caller("CT1").associate(Peer(AETitle("PACS"), "127.0.0.1", port), proposals)
            yield Scu(assoc, meta)
            assoc.release()

        yield associate


def spooled_files(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.rglob("*.pixels"))


def spooled(tmp_path: Path) -> list[bytes]:
    return [path.read_bytes() for path in spooled_files(tmp_path)]


def test_an_instance_is_given_a_name_where_it_has_none(printer: Callable[..., Any]) -> None:
    with printer() as scu:
        answer, ds = client.normalized(scu.assoc, FILM_SESSION, CommandField.N_CREATE, context_class=META_GRAY)
        assert (answer.Status, ds.PrintPriority, ds.NumberOfCopies) == (0x0000, "MED", 1)
        assert str(answer.AffectedSOPInstanceUID).startswith("2.25.")
        assert scu.ask(CommandField.N_DELETE, FILM_SESSION, str(answer.AffectedSOPInstanceUID)) == 0x0000


def test_an_answer_says_what_the_instance_is(printer: Callable[..., Any]) -> None:
    with printer() as scu:
        scu.open()
        ds = Dataset()
        ds.BorderDensity, ds.MaxDensity = "WHITE", 300
        answer, said = client.normalized(scu.assoc, FILM_BOX, CommandField.N_SET, "1.2", ds, context_class=META_GRAY)
        assert (answer.Status, said.BorderDensity, said.MaxDensity, said.FilmSizeID) == (0x0000, "WHITE", 300, "14INX17IN")
        assert str(said["ImageDisplayFormat"].value).endswith("1,1")


def test_the_printer_is_asked_on_any_context(printer: Callable[..., Any]) -> None:
    for meta in (META_GRAY, META_COLOR, PRINTER):
        with printer(meta) as scu:
            answer, ds = client.normalized(scu.assoc, PRINTER, CommandField.N_GET, PRINTER_INSTANCE, context_class=meta)
            assert (answer.Status, ds.PrinterStatus, ds.PrinterStatusInfo, ds.PrinterName) == (0x0000, "NORMAL", "NORMAL", "PACS")
            assert scu.ask(CommandField.N_GET, PRINTER, "1.2.3") == 0x0112


def test_what_is_no_member_of_the_meta_class_is_no_such_class(printer: Callable[..., Any]) -> None:
    with printer(META_GRAY) as scu:
        scu.open()
        assert scu.set_image(image(), COLOR_BOX) == 0x0118
        assert scu.ask(CommandField.N_CREATE, "1.2.840.10008.5.1.1.15", "1.3") == 0x0118
    with printer(PRINTER) as scu:
        assert scu.ask(CommandField.N_CREATE, FILM_SESSION, "1.1") == 0x0118


def test_what_a_class_does_not_have_is_an_unrecognised_operation(printer: Callable[..., Any]) -> None:
    with printer() as scu:
        assert scu.ask(CommandField.N_GET, FILM_SESSION, "1.1") == 0x0211
        assert scu.ask(CommandField.N_CREATE, GRAY_BOX, "1.1") == 0x0211
        assert scu.ask(CommandField.N_DELETE, PRINTER, PRINTER_INSTANCE) == 0x0211


def test_requests_that_cannot_be_performed_are_refused_with_their_status(printer: Callable[..., Any], jobs: Jobs) -> None:
    with printer() as scu:
        assert scu.ask(CommandField.N_CREATE, FILM_BOX, "1.2", film("STANDARD\\1,1")) == 0x0112
        assert scu.ask(CommandField.N_CREATE, FILM_SESSION, "1.x") == 0x0117
        assert scu.ask(CommandField.N_CREATE, FILM_SESSION, "1.1") == 0x0000
        assert scu.ask(CommandField.N_CREATE, FILM_SESSION, "1.9") == 0x0111
        assert scu.print(FILM_SESSION, "1.1") == 0xC600
        assert scu.ask(CommandField.N_CREATE, FILM_BOX, "1.2") == 0x0120
        assert scu.ask(CommandField.N_CREATE, FILM_BOX, "1.2", film("SLIDE")) == 0x0106
        assert scu.ask(CommandField.N_CREATE, FILM_BOX, "1.2", film("STANDARD\\1,1")) == 0x0000
        assert scu.print(type_id=2) == 0x0123
        assert scu.print(uid="1.9") == 0x0112
        assert scu.set_image(image(HighBit=6)) == 0x0106
        assert scu.ask(CommandField.N_SET, GRAY_BOX, "1.9", image()) == 0x0112
        assert scu.ask(CommandField.N_DELETE, FILM_BOX, "1.9") == 0x0112
    assert not jobs.entered


def test_an_image_that_does_not_fit_is_refused_where_it_must_not_be_made_to(printer: Callable[..., Any], tmp_path: Path) -> None:
    large = image(5, 1700)
    with printer() as scu:
        scu.open()
        large.RequestedDecimateCropBehavior = "FAIL"
        assert scu.set_image(large) == 0xC603
        eventually(lambda: not spooled_files(tmp_path), what="the end of what was refused")
        for behavior, status in {"CROP": 0xB609, "DECIMATE": 0xB60A}.items():
            large.RequestedDecimateCropBehavior = behavior
            assert (scu.set_image(large), scu.print()) == (status, status)
        del large.RequestedDecimateCropBehavior


def test_pixels_are_on_disk_until_nobody_needs_them(printer: Callable[..., Any], jobs: Jobs, tmp_path: Path) -> None:
    with printer() as scu:
        scu.open()
        assert scu.set_image(image()) == 0x0000
        assert spooled(tmp_path) == [bytes([7] * 200)]
        assert scu.print() == 0x0000
        (job,) = jobs.entered
        folder = tmp_path / "print" / "jobs" / job.uid
        assert [path.stat().st_nlink for path in folder.iterdir()] == [2]
        assert scu.ask(CommandField.N_DELETE, FILM_BOX, "1.2") == 0x0000
        assert scu.print(FILM_SESSION, "1.1") == 0xC600
    eventually(lambda: not list((tmp_path / "print" / "sessions").iterdir()), what="the association's end")
    assert [path.read_bytes() for path in folder.iterdir()] == [bytes([7] * 200)]


def test_a_film_that_is_printed_twice_is_two_jobs(printer: Callable[..., Any], jobs: Jobs) -> None:
    with printer() as scu:
        scu.open()
        assert scu.print() == 0xB603
        assert scu.set_image(image()) == 0x0000
        assert (scu.print(), scu.print(FILM_SESSION, "1.1")) == (0x0000, 0x0000)
    assert len({job.uid for job in jobs.entered}) == 3


def test_no_room_for_an_image_and_no_room_in_the_queue_have_statuses_of_their_own(
    printer: Callable[..., Any], jobs: Jobs, tmp_path: Path
) -> None:
    with printer() as scu:
        scu.open()
        assert scu.set_image(image(200, 201)) == 0xC605
        assert scu.set_image(image(200, 200)) == 0x0000
        jobs.is_full = True
        assert (scu.print(), scu.print(FILM_SESSION, "1.1")) == (0xC602, 0xC601)
        assert list((tmp_path / "print" / "jobs").iterdir()) == []


def test_a_message_beyond_all_bounds_is_refused_and_the_association_goes_on(
    printer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printing, "LARGEST_MESSAGE", 5000)
    with printer() as scu:
        scu.open()
        assert scu.set_image(image(99, 99)) == 0xC605
        assert scu.set_image(image(10, 10)) == 0x0000


def lut(bits: int = 8, entries: int = 256, **changes: Any) -> Dataset:
    ds, item = Dataset(), Dataset()
    item.LUTDescriptor = [entries, 0, bits]
    item.LUTData = list(range((1 << bits) - 1, -1, -((1 << bits) // entries)))
    item["LUTData"].VR = "US"
    ds.PresentationLUTSequence = [item]
    for keyword, value in changes.items():
        setattr(item, keyword, value)
    return ds


def identity(shape: str = "IDENTITY") -> Dataset:
    ds = Dataset()
    ds.PresentationLUTShape = shape
    return ds


def referring(uid: str) -> list[Dataset]:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = PRESENTATION_LUT, uid
    return [item]


@pytest.mark.parametrize("syntax", LITTLE_ENDIAN)
def test_a_presentation_lut_is_spooled_with_the_images_that_it_is_for(
    printer: Callable[..., Any], jobs: Jobs, tmp_path: Path, syntax: str
) -> None:
    with printer(META_GRAY, PRESENTATION_LUT, syntax=syntax) as scu:
        assert scu.ask(CommandField.N_CREATE, PRESENTATION_LUT, "1.8", lut(), context=PRESENTATION_LUT) == 0x0000
        assert scu.ask(CommandField.N_CREATE, PRESENTATION_LUT, "1.9", identity(), context=PRESENTATION_LUT) == 0x0000
        scu.open("STANDARD\\1,1", ReferencedPresentationLUTSequence=referring("1.8"))
        assert scu.set_image(image()) == 0x0000
        assert scu.print() == 0x0000
        assert scu.set_image(image(), ReferencedPresentationLUTSequence=referring("1.9")) == 0x0000
        assert scu.print() == 0x0000
        assert scu.ask(CommandField.N_DELETE, PRESENTATION_LUT, "1.8", context=PRESENTATION_LUT) == 0x0000
        assert scu.ask(CommandField.N_DELETE, PRESENTATION_LUT, "1.8", context=PRESENTATION_LUT) == 0x0112
    first, second = (job.pages[0].boxes[0].picture for job in jobs.entered)
    assert first is not None
    assert second is not None
    assert second.curve == ""
    assert (tmp_path / "print" / "jobs" / jobs.entered[0].uid / first.curve).read_bytes() == bytes(range(255, -1, -1))


def test_a_presentation_lut_that_we_do_not_have_is_refused(printer: Callable[..., Any]) -> None:
    with printer(META_GRAY, PRESENTATION_LUT) as scu:

        def create(ds: Dataset | None) -> int:
            return int(scu.ask(CommandField.N_CREATE, PRESENTATION_LUT, "1.8", ds, context=PRESENTATION_LUT))

        both = lut()
        both.PresentationLUTShape = "IDENTITY"
        assert create(None) == 0x0120
        for wrong in (identity("LIN OD"), both, lut(entries=128), lut(LUTDescriptor=[256, 1, 8]), lut(LUTDescriptor=[256, 0, 7])):
            assert create(wrong) == 0x0106
        assert create(lut(12, 4096)) == 0x0000
        assert create(identity()) == 0x0111
        scu.open("STANDARD\\1,1", ReferencedPresentationLUTSequence=referring("1.8"))
        assert scu.set_image(image()) == 0x0106  # it has 8 bits
        assert scu.set_image(image(), ReferencedPresentationLUTSequence=referring("1.7")) == 0x0106


def test_two_associations_have_nothing_in_common(printer: Callable[..., Any]) -> None:
    with printer() as one, printer() as other:
        one.open()
        assert other.print() == 0x0112
        other.open("STANDARD\\2,1")
        assert (len(one.boxes), len(other.boxes)) == (1, 2)


def test_what_an_association_has_spooled_goes_when_it_breaks(printer: Callable[..., Any], tmp_path: Path) -> None:
    with printer() as scu:
        scu.open()
        assert scu.set_image(image()) == 0x0000
        scu.assoc.connection.abort()
        eventually(lambda: not list((tmp_path / "print" / "sessions").iterdir()), what="the association's end")
