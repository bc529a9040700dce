"""Print Management SCP: film sessions, film boxes, image boxes and the printer (PS3.4 annex H)."""

from collections.abc import Callable, Mapping
from functools import partial

import structlog
from pydicom import Dataset

from pacs_core.dicom.file_meta import IMPLEMENTATION_VERSION_NAME
from pacs_core.dicom.headers import data_set_of, header_of
from pacs_core.dicom.part10 import mapped
from pacs_core.dicom.pixel_data import parted
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.negotiation import LITTLE_ENDIAN, Context
from pacs_core.dimse.services import Service, normalized
from pacs_core.dimse.services.normalized import Operations, Reply, Request
from pacs_core.errors import FilmQueueFull, InvalidAttributeValue, NotFound, PrinterFull, SessionQueueFull, UnavailableError, UnknownAction
from pacs_core.model import Header, Permission, new_uid, parse_uid
from pacs_core.ports.printing import PrintJob, PrintJobs
from pacs_core.storage.print_spool import PrintSpool, SessionImages
from pacs_core.workflow.presentation_lut import Curve, values_of
from pacs_core.workflow.printing import (
    BOX_CLASSES,
    COLOR_BOX,
    FILM_BOX,
    FILM_SESSION,
    GRAY_BOX,
    MEMBERS,
    PRESENTATION_LUT,
    PRINT,
    PRINTER,
    PRINTER_INSTANCE,
    Answer,
    FilmSession,
    Printing,
)

log = structlog.get_logger(__name__)

LARGEST_MESSAGE = 128 << 20  # bytes of an N-SET of an image box
LONGEST_QUEUE = 1000  # jobs that are not rendered yet

_SYNTAXES = frozenset(LITTLE_ENDIAN)  # what is spooled is spooled as it comes


class PrintService(Service):
    """Takes what is to be printed, on the disk and not in memory; it is rendered behind the answer.

    Args:
        jobs: where jobs are kept.
        spool: where images are, from their N-SET on.
        dpi: pixels of an inch of film.
        ae_title: ours, which is the printer's name.
        told: called when there is something to render.
    """

    permission = Permission.PRINT

    def __init__(self, jobs: PrintJobs, spool: PrintSpool, *, dpi: int, ae_title: str, told: Callable[[], None] = lambda: None) -> None:
        self._jobs = jobs
        self._spool = spool
        self._dpi = dpi
        self._ae_title = ae_title
        self._told = told
        self._desks: dict[str, _Desk] = {}  # by association

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        """The two meta SOP classes, presentation LUTs and the printer, little endian."""
        return _SYNTAXES if abstract_syntax in MEMBERS else frozenset()

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        """Answer one request."""
        desk = self._desks.setdefault(assoc.id, _Desk(FilmSession(dpi=self._dpi), self._spool))
        members = {member: self._operations(desk, context, member) for member in MEMBERS[context.served_as]}
        normalized.serve_member(assoc, context, command, members, read=partial(desk.read, command))
        desk.tidy()

    def ended(self, assoc: Association) -> None:
        """Its film session ends with it (PS3.4 H.4.1.2.1.3). What was printed is printed."""
        if desk := self._desks.pop(assoc.id, None):
            desk.close()

    def _operations(self, desk: "_Desk", context: Context, member: str) -> Operations:
        """What may be asked of a SOP class (PS3.4 tables H.4-1, H.4-5, H.4.3.1.2, H.4.6.2)."""
        session = desk.session
        operations: Mapping[str, Operations] = {
            FILM_SESSION: {
                CommandField.N_CREATE: lambda request: _created(request, session.create),
                CommandField.N_SET: lambda request: _changed(session.change(request.sop_instance, header_of(request.attributes))),
                CommandField.N_DELETE: lambda request: _deleted(session.delete, request),
                CommandField.N_ACTION: lambda request: self._print(desk, request, session.print_all, SessionQueueFull),
            },
            FILM_BOX: {
                CommandField.N_CREATE: lambda request: _created(request, partial(_create_film, session, BOX_CLASSES[context.served_as])),
                CommandField.N_SET: lambda request: _changed(session.change_film(request.sop_instance, header_of(request.attributes))),
                CommandField.N_DELETE: lambda request: _deleted(session.delete_film, request),
                CommandField.N_ACTION: lambda request: self._print(desk, request, session.print_film, FilmQueueFull),
            },
            GRAY_BOX: {CommandField.N_SET: desk.set_image},
            COLOR_BOX: {CommandField.N_SET: desk.set_image},
            PRINTER: {CommandField.N_GET: self._get},
            PRESENTATION_LUT: {
                CommandField.N_CREATE: desk.create_curve,
                CommandField.N_DELETE: lambda request: _deleted(session.delete_curve, request),
            },
        }
        return operations[member]

    def _print(self, desk: "_Desk", request: Request, printing_of: Callable[[str], Printing], full: type[UnavailableError]) -> Reply:
        """Once this is answered, what is printed survives everything (H.4.1.2.4.3, H.4.2.2.4.3)."""
        if request.type_id != PRINT:
            raise UnknownAction(f"films have no action {request.type_id}")
        status, pages = printing_of(request.sop_instance)
        said = desk.session.attributes
        job = PrintJob(
            uid=new_uid(),
            calling_ae=request.calling_ae,
            FilmSessionLabel=str(said.get("FilmSessionLabel", "")),
            NumberOfCopies=int(str(said["NumberOfCopies"])),
            PrintPriority=str(said["PrintPriority"]),
            MediumType=str(said["MediumType"]),
            FilmDestination=str(said["FilmDestination"]),
            OwnerID=str(said.get("OwnerID", "")),
            pages=pages,
        )
        desk.hand_over(job)
        if not self._jobs.enter(job, most=LONGEST_QUEUE):
            self._spool.forget(job.uid)
            raise full(f"{LONGEST_QUEUE} prints are waiting")
        log.info("print_requested", association=request.association, calling=request.calling_ae, job=job.uid, pages=len(pages))
        return Reply(status, then=self._told)

    def _get(self, request: Request) -> Reply:
        """Table H.4-17. This printer has no supplies that could end: it is always ready."""
        if request.sop_instance != PRINTER_INSTANCE:
            raise NotFound(f"the printer is the well-known instance {PRINTER_INSTANCE}")
        ds = Dataset()
        ds.Manufacturer = ds.ManufacturerModelName = "pacs"
        ds.SoftwareVersions = IMPLEMENTATION_VERSION_NAME
        ds.PrinterStatus = ds.PrinterStatusInfo = "NORMAL"
        ds.PrinterName = self._ae_title
        return Reply(attributes=normalized.chosen(ds, request.wanted))


class _Desk:
    """The film session of an association, and its images. Belongs to its thread."""

    def __init__(self, session: FilmSession, spool: PrintSpool) -> None:
        self.session = session
        self._spool = spool
        self._images: SessionImages | None = None
        self._latest = ("", 0)  # the pixels that came last: their file, and how many bytes

    def read(self, command: Command, assoc: Association, context: Context) -> Dataset:
        """The data set of a request. One of an image box goes by way of a file, and its pixels stay in another."""
        if command.sop_class not in (GRAY_BOX, COLOR_BOX):
            return normalized.whole(assoc, context)
        size = 0
        with assoc.receiving(context, command) as fragments, (images := self._opened()).message() as file:
            for fragment in fragments:
                size += len(fragment.data)
                if size > LARGEST_MESSAGE:
                    raise PrinterFull(f"an image of more than {LARGEST_MESSAGE} bytes")
                file.write(fragment.data)
            file.flush()
            with mapped(file) as data:
                rest, pixels = parted(data, context.transfer_syntax)
                if len(pixels) > 1:
                    raise InvalidAttributeValue("an image box has one image")
                self._latest = (images.add(pixels[0]), len(pixels[0])) if pixels else ("", 0)
        return normalized.decoded(rest, context)

    def set_image(self, request: Request) -> Reply:
        """N-SET of an image box."""
        file, length = self._latest
        given = header_of(request.attributes)
        return _changed(self.session.set_image(request.sop_instance, request.sop_class, given, file, length))

    def create_curve(self, request: Request) -> Reply:
        """N-CREATE of a presentation LUT; its values go where the images are."""
        uid = parse_uid(request.sop_instance or new_uid(), name="Affected SOP Instance UID")
        values = values_of(request.attributes)
        self.session.add_curve(uid, Curve(self._opened().add(values), len(values)) if values else Curve())
        return Reply(attributes=request.attributes, sop_instance=uid)

    def hand_over(self, job: PrintJob) -> None:
        """The images of a job are the job's from now on. StorageFull, StorageUnavailable."""
        pictures = [box.picture for page in job.pages for box in page.boxes if box.picture]
        names = {picture.image.file for picture in pictures} | {picture.curve for picture in pictures if picture.curve}
        self._opened().hand_over(job.uid, names)

    def tidy(self) -> None:
        """Remove the images that no image box has; those of a request that was refused too. Never raises."""
        self._latest = ("", 0)
        if self._images is not None:
            self._images.retain(self.session.files)

    def close(self) -> None:
        """Remove them all. Never raises."""
        if self._images is not None:
            self._images.close()

    def _opened(self) -> SessionImages:
        self._images = self._images or self._spool.open()
        return self._images


def _created(request: Request, create: Callable[[str, Header], Answer]) -> Reply:
    uid = request.sop_instance or new_uid()
    parse_uid(uid, name="Affected SOP Instance UID")
    answer = create(uid, header_of(request.attributes))
    return Reply(answer.status, data_set_of(answer.attributes), sop_instance=uid)


def _create_film(session: FilmSession, box_class: str, uid: str, given: Header) -> Answer:
    return session.create_film(uid, box_class, given, [new_uid() for _ in range(session.count_boxes(given))])


def _changed(answer: Answer) -> Reply:
    return Reply(answer.status, data_set_of(answer.attributes))


def _deleted(delete: Callable[[str], None], request: Request) -> Reply:
    delete(request.sop_instance)
    return Reply()
