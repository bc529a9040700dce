"""Prints docs/conformance.md from the registries of the code itself: `make docs` writes it, a test sees that it is current."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pydicom._uid_dict import UID_dictionary  # pydicom's copy of PS3.6 annex A has no public iterator

from pacs_core import errors
from pacs_core.dicom.attributes import COMPUTED, INDEXED, vr
from pacs_core.dicom.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_core.dicom.sop_classes import storage_sop_classes, transfer_syntaxes
from pacs_core.dimse.connection import ASSOCIATE_LIMIT, MAXIMUM_LENGTH
from pacs_core.dimse.information_models import MODELS
from pacs_core.dimse.services import UNCOMPRESSED, Service
from pacs_core.dimse.services.commitment import CommitmentService
from pacs_core.dimse.services.performed_step import MPPS_NOTIFICATION, PerformedStepService
from pacs_core.dimse.services.printing import LARGEST_MESSAGE, LONGEST_QUEUE, PrintService
from pacs_core.dimse.services.query import QueryService, options_of
from pacs_core.dimse.services.retrieve import Retrieve
from pacs_core.dimse.services.storage import Storage
from pacs_core.dimse.services.unified_step import ACTIONS, UnifiedStepService
from pacs_core.dimse.services.verification import Verification
from pacs_core.dimse.services.worklist import WorklistService
from pacs_core.model import Level
from pacs_core.settings import Settings
from pacs_core.workflow import film, print_attributes, unified_states
from pacs_core.workflow import unified_step as unified
from pacs_core.workflow.commitment import FailureReason
from pacs_core.workflow.final_state import FINAL_STATE
from pacs_core.workflow.performed_step import FIXED, REQUIRED, REQUIRED_AT_THE_END, REQUIRED_OF_A_SERIES, TRANSITIONS
from pacs_core.workflow.subscriptions import Action
from pacs_core.workflow.unified_states import SETTING, Already, Key, Outcome, State

INTRODUCTION = """\
# DICOM Conformance Statement

<!-- Written by `make docs` from the code's own registries. -->

What the archive accepts, offers and answers, in the terms of PS3.2. What depends on a setting names it
([configuration](configuration.md)).

## Overview

One application entity, `ae_title` (default `PACS`), is SCP of all services below on one port, `dicom_port` (default 11112), and calls
[peers](operating.md#peers) as SCU: storage for C-MOVE and `pacs store`, query and retrieve, verification and print management for the
command line, storage commitment, MPPS, and event reports of the services of which it is SCP.
"""

UNIFIED_STEPS = """\
- The archive fills in SOPClassUID, SOPInstanceUID, ScheduledProcedureStepModificationDateTime, WorklistLabel (its AE title) where there is none,
  and, when a step is canceled, ProcedureStepCancellationDateTime and ProcedureStepDiscontinuationReasonCodeSequence ("Discontinued for
  unspecified reason") where its performer has not. It keeps steps in ISO_IR 192, whatever they came in. It coerces nothing else.
- Attributes of type 2 that are left out are not missed. Every attribute of the Standard that a step has can be matched and returned, the
  Transaction UID never.
- To be subscribed an AE must be a peer (C308 otherwise); deletion locks are always granted, and never removed by the archive. A step that is over
  stays until it has no lock and the flow `worklist-cleanup` finds it old; one that is not over stays.
- Reports go to subscribers on associations of the archive's, again and again for `report_give_up_days`, in the order of what
  happened; one that the subscriber has answered with a failure may come after a later one. When the archive has been restarted they are told that it lost nothing (WARM START); there is no list of others to tell.
- To request cancellation of a step in progress that nobody is subscribed to fails (C312).
"""

CHARACTER_SETS = """\
## Character sets

Received data sets are kept byte for byte. Identifiers are read in whatever Specific Character Set of PS3.3 C.12.1.1.2 they declare; answers are
in that of the question where it can hold them, else in ISO_IR 192. Names are matched without regard to case and accents.
"""

SECURITY = """\
## Security

Peers are called over TLS (1.2 at least) where they are entered so, with a certificate of ours if they ask for one. The port of the archive itself
takes no TLS. Users are identified as the requestor names them and not authenticated. AE titles are checked as the settings
`check_called_ae_title` and `known_callers_only` say; what a peer may do, as its entry says (status 0124 otherwise).
"""


def page() -> str:
    """The whole page."""
    sections = [
        INTRODUCTION,
        _association(),
        _sop_classes(),
        _transfer_syntaxes(),
        _query(),
        _statuses(),
        _steps(),
        _commitment(),
        _unified_steps(),
        _printing(),
        CHARACTER_SETS,
        SECURITY,
    ]
    return "\n".join(sections)


def _association() -> str:
    settings = Settings.model_fields
    return f"""\
## Associations

| | |
|---|---|
| application context | 1.2.840.10008.3.1.1.1 |
| implementation class UID | {IMPLEMENTATION_CLASS_UID} |
| implementation version name | {IMPLEMENTATION_VERSION_NAME} |
| maximum length of a P-DATA-TF that is received | {MAXIMUM_LENGTH} bytes |
| longest A-ASSOCIATE-RQ that is read | {ASSOCIATE_LIMIT} bytes |
| associations at once, per listener process | `max_associations`, {settings["max_associations"].default}; one more is rejected (transient, local limit exceeded) |
| time for an association request, and for the rest of a message | `association_timeout`, {settings["association_timeout"].default:g} s |
| time between two messages | `idle_timeout`, {settings["idle_timeout"].default:g} s |
| asynchronous operations window | not negotiated: one operation at a time |
| SCP/SCU role selection | accepted for storage (C-GET) and storage commitment |
| SOP class extended negotiation | query and retrieve: {_options()} |
| SOP class common extended negotiation | a SOP class that is not supported is served as the first of its related general ones that is |
| user identity negotiation | every type is accepted and recorded, none is checked |
"""


def _options() -> str:
    sop_class = next(iter(MODELS))
    names = ("relational queries", "combined date-time matching", "fuzzy semantic matching of person names", "time zone query adjustment")
    with_fuzzy, without = (options_of(sop_class, bytes([1] * len(names)), fuzzy_names=fuzzy) or b"" for fuzzy in (True, False))
    answers = (
        "yes" if always else "where `fuzzy_names` is set" if sometimes else "no"
        for sometimes, always in zip(with_fuzzy, without, strict=True)
    )
    return "; ".join(f"{name}: {answer}" for name, answer in zip(names, answers, strict=True))


def _services() -> Mapping[str, Service]:
    """Each by its name. They are only asked what they support, so they get nothing to work with."""
    nothing = cast("Any", None)
    return {
        "Verification": Verification(),
        "Query": QueryService(nothing, ae_title=""),
        "Retrieve": Retrieve(nothing, nothing, nothing, nothing, nothing),
        "Modality Worklist": WorklistService(nothing, states=(), asked=nothing),
        "Modality Performed Procedure Step": PerformedStepService(nothing),
        "Storage Commitment": CommitmentService(nothing, nothing, nothing, nothing, nothing),
        "Unified Procedure Step": UnifiedStepService(nothing, nothing, worklist="", told=nothing),
        "Print Management": PrintService(nothing, nothing, dpi=0, ae_title=""),
        "Storage": Storage(nothing, nothing, private=False),
    }


def _sop_classes() -> str:
    known = {uid for uid, entry in UID_dictionary.items() if entry[1] in ("SOP Class", "Meta SOP Class")} | storage_sop_classes()
    rows: list[str] = []
    for name, service in _services().items():
        supported = sorted((uid for uid in known if service.supports(uid)), key=_numbers)
        rows += (f"| {name} | {_name(uid)} | {uid} | {_syntaxes(service.supports(uid))} |" for uid in supported)
    rows += (
        f"| {service} (as SCP, on associations of ours) | {_name(uid)} | {uid} | uncompressed |"
        for service, uid in (("MPPS Notification", MPPS_NOTIFICATION), ("Unified Procedure Step", unified.EVENT))
    )
    return (
        "## SOP classes as SCP\n\nWith `accept_private_sop_classes`, storage also takes SOP classes that are not of the Standard.\n\n"
        + _table(("service", "SOP class", "UID", "transfer syntaxes"), rows)
    )


def _syntaxes(supported: frozenset[str]) -> str:
    return "all" if supported == transfer_syntaxes() else "uncompressed" if supported >= UNCOMPRESSED else "uncompressed, little endian"


def _transfer_syntaxes() -> str:
    rows = [f"| {_name(uid)} | {uid} |" for uid in sorted(transfer_syntaxes(), key=_numbers)]
    introduction = """\
## Transfer syntaxes

Uncompressed are Implicit VR Little Endian, Explicit VR Little Endian and Explicit VR Big Endian. Storage takes all of these; of those that are
proposed in a presentation context, the first. Instances are kept and sent as they came; where a peer does not take that, they are decoded,
if that is possible, and sent in an uncompressed one that it takes. Nothing is ever compressed.

"""
    return introduction + _table(("transfer syntax", "UID"), rows)


def _query() -> str:
    rows = [f"| {level} | {', '.join(_marked(keyword) for keyword in [*INDEXED[level], *COMPUTED[level]])} |" for level in Level]
    introduction = """\
## Attributes of queries

Matched and returned, by level; the keys of the levels above count too. Matching is that of PS3.4 C.2.2.2: single value, list of UIDs, universal,
wildcard, range of dates and times, sequence. Attributes in italics are returned only, except ModalitiesInStudy and SOPClassesInStudy.
In worklist queries every attribute of the Standard that an item has can be matched and returned.

"""
    return introduction + _table(("level", "attributes"), rows)


def _marked(keyword: str) -> str:
    return f"*{keyword}*" if any(keyword in COMPUTED[level] for level in Level) else f"{keyword} ({vr(keyword)})"


def _statuses() -> str:
    rows = [
        f"| {each.dimse_status:04X} | {each.normalized_status:04X} | {each.__name__} | {_first_line(each)} |"
        for each in _tree(errors.PacsError)
    ]
    introduction = """\
## Statuses of failures

What the composite (DIMSE-C) and the normalized (DIMSE-N) services answer, with an Error Comment that says why. An operation that a service does
not have is answered with 0211, one that a peer may not ask for with 0124.

"""
    return introduction + _table(("DIMSE-C", "DIMSE-N", "error", "when"), rows)


def _tree(root: type[errors.PacsError]) -> Iterable[type[errors.PacsError]]:
    if root.__module__ == errors.__name__:
        if root is not errors.ConfigurationError and not root.__subclasses__():
            yield root
        for child in root.__subclasses__():
            yield from _tree(child)


def _first_line(each: type) -> str:
    return (each.__doc__ or "").split("\n")[0]


def _steps() -> str:
    transitions = [f"| {before} | {', '.join(sorted(after)) or 'none: 0110 with error A710'} |" for before, after in TRANSITIONS.items()]
    ends = [f"- {status}: {', '.join(needed)}" for status, needed in REQUIRED_AT_THE_END.items()]
    return "\n".join(
        [
            "## Modality performed procedure steps\n",
            _table(("a step that is", "may become"), transitions),
            f"An N-CREATE needs {', '.join(REQUIRED)}; absent 0120, empty 0121. What an N-SET may not change (0106): {', '.join(FIXED)}.",
            "What a step needs when it ends:\n",
            *ends,
            f"\nEach item of PerformedSeriesSequence needs {', '.join(REQUIRED_OF_A_SERIES)} then.",
            "",
        ]
    )


def _commitment() -> str:
    rows = [f"| {reason:04X} | {reason.name.replace('_', ' ').lower()} |" for reason in FailureReason]
    introduction = """\
## Storage commitment

Instances are committed to once their objects were found and read (`commitment_verify`), on whatever tier; they are kept until a rule of retention
removes their study. The result is reported on an association of the archive's to the peer of the calling AE title, in which it proposes itself as
SCP, again and again for `report_give_up_days`; to a caller that is no peer, on its own association while it waits there.

"""
    return introduction + _table(("failure reason", ""), rows)


def _unified_steps() -> str:
    transitions = [
        f"| {request} | {' | '.join(_cell(row[before]) for before in (None, *State))} |"
        for request, row in unified_states.TRANSITIONS.items()
    ]
    settings = [f"| {state} | {' | '.join(_cell(row[key]) for key in Key)} |" for state, row in SETTING.items()]
    final = [f"| {' / '.join(path)} | {', '.join(sorted(needed.value))} |" for path, needed in FINAL_STATE.items()]
    return "\n".join(
        [
            "## Unified procedure steps\n",
            _table(("SOP class", "actions"), [f"| {_name(uid)} | {_actions(of)} |" for uid, of in ACTIONS.items()]),
            _table(("asked for", "of a step that is not there", *State), transitions),
            _table(("may an N-SET change a step that is", *(f"its Transaction UID being {key.value}" for key in Key)), settings),
            f"An N-CREATE needs ProcedureStepState, {', '.join(unified.REQUIRED)}; {', '.join(unified.EMPTY_AT_FIRST)} are empty in it.",
            f"What an N-SET may not change (0106): {', '.join(unified.FIXED)}; what it may not empty (0121): {', '.join(unified.VALUED)}.\n",
            _table(("needed at the end (C304)", "to become"), final),
            UNIFIED_STEPS,
        ]
    )


def _actions(actions: Iterable[Action]) -> str:
    return ", ".join(f"{action:d} {action.name.replace('_', ' ').lower()}" for action in actions)


def _cell(outcome: Outcome | None) -> str:
    if isinstance(outcome, type):
        return f"{outcome.normalized_status:04X}"
    if outcome is None:
        return "yes"
    if isinstance(outcome, Already):
        return f"{outcome:04X} (warning)"
    return " then ".join(outcome) if outcome else "the performer is told"


def _printing() -> str:
    tables = {
        "film session": print_attributes.FILM_SESSION,
        "film box": print_attributes.FILM_BOX,
        "image box": print_attributes.IMAGE_BOX,
    }
    rows = [
        f"| {instance} | {keyword} | {attribute.initial or 'none'} | {'yes' if keyword in _CHANGEABLE[instance] else 'no'} |"
        for instance, table in tables.items()
        for keyword, attribute in table.items()
    ]
    introduction = f"""\
## Print management

Both meta SOP classes are served, with one film session an association, which ends with it. N-ACTION prints a film or a session; it is answered once the
job is safe, and rendered then. Print Job and annotations are not supported. The printer is always NORMAL, so that it never has an event to
report.

- Image Display Formats are STANDARD, ROW and COL with at most 100 images (0106 for others). Position 1 is at the top left; COL counts down its
  columns, everything else along its rows.
- Film sizes are A3, A4 and whatever is written as inches or centimetres (14INX17IN, 24CMX30CM) between 5 and 140 cm a side. A film has `print_dpi`
  pixels an inch, {film.MOST_PIXELS // 1_000_000} million at most (0106), a margin of 5 mm, and 2 mm between its image boxes.
- Images are unsigned: 8 bits, or up to 16 of 16 bits allocated in gray, RGB in either planar configuration in color. An image fills its box; with
  Magnification Type NONE, or a Requested Image Size, it is as large as that says. One that is larger than its box is demagnified (B604), or decimated (B60A),
  cropped on all sides to its middle (B609) or refused (C603), as is requested; with NONE it is refused unless it may be cropped.
- Densities go from 0 to {film.DARKEST} hundredths; more becomes that (B605). They are perceived as PS3.14 has it, at 2000 and 10 cd/m².
- Presentation LUTs are IDENTITY (LIN OD is refused with 0106) or a table of 256 or 4096 entries from 0 on, for images of 8 and of 12 bits. One belongs to
  its association, and is referred to by film boxes and grayscale image boxes.
- A value that is not supported becomes the default below (0116). An attribute that is not supported is ignored (0107); memory is not allocated (B600).
  Copies, medium and destination are written down; smoothing, configuration, illumination and
  reflected ambient light are taken and have no effect.
- An image of more than {LARGEST_MESSAGE >> 20} MiB, or one that `print_spool_bytes` has no room for, is refused (C605), a full disk answers 0213. More than
  {LONGEST_QUEUE} jobs do not wait (C601, C602). A film without images is printed with a warning (B603; of a session B602).

"""
    return introduction + _table(("instance", "attribute", "default", "may be set later"), rows)


_CHANGEABLE: Mapping[str, Iterable[str]] = {
    "film session": print_attributes.FILM_SESSION,
    "film box": print_attributes.FILM_BOX_CHANGES,
    "image box": print_attributes.IMAGE_BOX,
}


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows, ""])


def _name(uid: str) -> str:
    return UID_dictionary[uid][0].replace("|", "/") if uid in UID_dictionary else uid


def _numbers(uid: str) -> tuple[int, ...]:
    return tuple(map(int, uid.split(".")))


if __name__ == "__main__":
    sys.stdout.write(page())
