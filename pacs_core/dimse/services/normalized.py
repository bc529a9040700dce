"""What the DIMSE-N services have in common (PS3.7 10): a request's data set comes in, a status and perhaps a data set go out.

A service says which operations it performs, one function each, on values. Reading, answering and the translation of errors into
statuses (PS3.7 annex C) are here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from pydicom import Dataset

from pacs_core.dicom.kinds import check_kinds
from pacs_core.dimse import identifiers
from pacs_core.dimse.association import Association
from pacs_core.dimse.command import Command
from pacs_core.dimse.connection import AssociationEnded
from pacs_core.dimse.negotiation import Context
from pacs_core.dimse.services import NO_SUCH_SOP_CLASS, SUCCESS, refuse
from pacs_core.errors import PacsError

log = structlog.get_logger(__name__)

_LARGEST = 16 << 20  # bytes of a data set: a commitment request for 100,000 instances


@dataclass(frozen=True, slots=True)
class Request:
    """A DIMSE-N request.

    Attributes:
        calling_ae: who asks.
        association: its id, for the log.
        sop_class, sop_instance: the requested or affected ones; "" where the command set has none.
        attributes: its data set; empty where it has none.
        wanted: of an N-GET, the tags that are asked for; empty for all.
        type_id: the action or event type; 0 where there is none.
    """

    calling_ae: str
    association: str
    sop_class: str
    sop_instance: str
    attributes: Dataset
    wanted: tuple[int, ...] = ()
    type_id: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """How a request ends that was performed.

    Attributes:
        status: success or a warning.
        attributes: the data set of the response; where it is empty, the response has none.
        sop_instance: of an N-CREATE, the UID that was assigned where the request had none.
        then: called once the response is sent, on the association's thread.
    """

    status: int = SUCCESS
    attributes: Dataset | None = None
    sop_instance: str = ""
    then: Callable[[], None] | None = field(default=None, compare=False)


Perform = Callable[[Request], Reply]
Operations = Mapping[int, Perform]  # by command field
Read = Callable[[Association, Context], Dataset]


def whole(assoc: Association, context: Context, *, limit: int = _LARGEST) -> Dataset:
    """The data set of a request, in memory. InvalidIdentifier, InvalidAttributeValue.

    AssociationEnded for one of more bytes than the limit.
    """
    data = assoc.identifier(context, limit=limit)
    return decoded(data, context) if data else Dataset()


def decoded(data: bytes, context: Context) -> Dataset:
    """A data set whose attributes are of the kinds that the Standard says: a sequence is one, a number is one.

    InvalidIdentifier; InvalidAttributeValue.
    """
    ds = identifiers.decode(data, context.transfer_syntax)
    check_kinds(ds)
    return ds


def serve_member(assoc: Association, context: Context, command: Command, members: Mapping[str, Operations], *, read: Read = whole) -> None:
    """Answer one request on a presentation context of a meta SOP class by the operations of the member that it names (PS3.4 H.3.2).

    What is none of its members is no such SOP class (0118).
    """
    operations = members.get(command.sop_class)
    if operations is None:
        refuse(assoc, context, command, status=NO_SUCH_SOP_CLASS, comment="not a SOP class of this presentation context")
    else:
        serve(assoc, context, command, operations, read=read)


def serve(assoc: Association, context: Context, command: Command, operations: Operations, *, read: Read = whole) -> None:
    """Answer one request by the function for its command field, or say that there is none (0211).

    PacsError becomes its `normalized_status`, what nobody has thought of a processing failure (0110): the request has been read to its end.
    What is raised while it is read ends the association.

    Args:
        read: reads the request's data set to its end, where it has one.
    """
    perform = operations.get(command.CommandField)
    if perform is None:
        refuse(assoc, context, command)
        return
    try:
        reply, data = _performed(_request(assoc, context, command, read), perform, context)
    except AssociationEnded:
        raise
    except PacsError as exc:
        log.warning(
            "request_refused", association=assoc.id, operation=command.operation, SOPInstanceUID=command.sop_instance, reason=str(exc)
        )
        assoc.send(context, command.response(exc.normalized_status, error_comment=str(exc), error_id=exc.error_id))
        return
    response = command.response(reply.status)
    response.AffectedSOPInstanceUID = response.AffectedSOPInstanceUID or reply.sop_instance or None
    assoc.send(context, response, data)
    if reply.then is not None:
        reply.then()


def _performed(request: Request, perform: Perform, context: Context) -> tuple[Reply, bytes | None]:
    """What comes of a request, and its data set encoded. PacsError, AssociationEnded."""
    try:
        reply = perform(request)
        return reply, identifiers.encode(reply.attributes, context.transfer_syntax) if reply.attributes else None
    except (PacsError, AssociationEnded):
        raise
    except Exception as exc:  # a request ends here; the association and what it holds go on
        log.exception("request_failed", association=request.association, SOPInstanceUID=request.sop_instance)
        raise PacsError(f"an error of ours: {type(exc).__name__}") from exc


def chosen(ds: Dataset, wanted: Sequence[int]) -> Dataset:
    """What an N-GET asks for of a data set: everything, if it names nothing (PS3.7 10.1.2.1.3); always with the character set it is in."""
    if not wanted:
        return ds
    answer = Dataset()
    for element in ds:
        if int(element.tag) in wanted or element.keyword == "SpecificCharacterSet":
            answer.add(element)
    return answer


def _request(assoc: Association, context: Context, command: Command, read: Read) -> Request:
    attributes = read(assoc, context) if command.has_data_set else Dataset()
    return Request(
        calling_ae=assoc.agreement.calling_ae,
        association=assoc.id,
        sop_class=command.sop_class,
        sop_instance=command.sop_instance,
        attributes=attributes,
        wanted=tuple(command.AttributeIdentifierList or ()),
        type_id=command.ActionTypeID or command.EventTypeID or 0,
    )
