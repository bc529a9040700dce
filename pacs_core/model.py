"""The values that the layers exchange. No behaviour beyond validation, no third party."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NewType
from uuid import uuid4

from pacs_core.errors import InvalidUID

UID = NewType("UID", str)
AETitle = NewType("AETitle", str)

# A data set in textual form: keyword to value. Values are Unicode text as the data set holds them (several values
# are joined by a backslash, PN groups by "="), surrounding padding removed; a sequence is a list of such headers.
# An attribute that is present but empty has the value "". Absent attributes are absent.
HeaderValue = str | list["Header"]
Header = dict[str, HeaderValue]

_UID_FORM = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")


def new_uid() -> UID:
    """A UID that nothing has yet (PS3.5 B.2)."""
    return UID(f"2.25.{uuid4().int}")


@lru_cache(maxsize=4096)
def parse_uid(text: str, *, name: str) -> UID:
    """A UID in the form of PS3.5 section 9.1 (at most 64 characters), or InvalidUID naming the attribute."""
    if len(text) > 64 or not _UID_FORM.fullmatch(text):
        raise InvalidUID(f"{name} is not a valid UID (PS3.5 section 9): {text[:80]!r}")
    return UID(text)


class Level(StrEnum):
    """Query/Retrieve levels (PS3.4 C.6), in the order of the hierarchy."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"

    @property
    def key(self) -> str:
        """The keyword of the level's unique key (PS3.4 C.6.1.1, C.6.2.1)."""
        return _UNIQUE_KEYS[self]

    @property
    def table(self) -> str:
        """The index table whose rows are this level's entities."""
        return "instance" if self is Level.IMAGE else self.value.lower()


_UNIQUE_KEYS: Mapping[Level, str] = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}


class Duplicates(StrEnum):
    """What happens when a held SOPInstanceUID arrives again with other bytes. Identical bytes are always harmless."""

    KEEP_FIRST = "keep-first"
    REPLACE = "replace"
    REJECT = "reject"


class Layout(StrEnum):
    """How an object is named within a tier."""

    UID = "uid"  # {StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm
    DATE = "date"  # {YYYY}/{MM}/{DD}/{SOPInstanceUID}.dcm, the day of reception in UTC


class InvalidUIDs(StrEnum):
    """What happens to an instance with a UID that is not one."""

    REFUSE = "refuse"
    DIGEST = "digest"  # accepted and indexed as sent; its path uses a digest of the UID


class Availability(StrEnum):
    """Whether an object can be read."""

    ONLINE = "online"
    ARCHIVED = "archived"  # only after it has been rehydrated
    REHYDRATING = "rehydrating"  # that has been asked for


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an instance came from. Kept in its file meta, so that storage alone tells it."""

    source_ae: str  # calling AE title, or "" for an import
    receiving_ae: str
    received_at: datetime  # timezone-aware, UTC


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What is known of an instance before its data set arrives (PS3.7 9.1.1)."""

    SOPClassUID: UID
    SOPInstanceUID: UID
    TransferSyntaxUID: UID
    origin: Origin


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Where an instance is and what it must hash to."""

    SOPInstanceUID: UID
    SOPClassUID: UID
    TransferSyntaxUID: UID
    SeriesInstanceUID: UID
    StudyInstanceUID: UID
    tier: str
    path: str
    size: int
    sha256: str


class CopyState(StrEnum):
    """What a copy is good for."""

    ARRIVING = "arriving"  # being made; there may be no object yet, or part of one
    HELD = "held"  # good
    LEAVING = "leaving"  # to be removed


@dataclass(frozen=True, slots=True)
class Copy:
    """An object of an instance beside the one that holds it.

    Attributes:
        member: where the object at `path` is a package of a study: the name in it; otherwise "".
        size: bytes of the instance's object, which a package has as it was.
        since: when it was last made, timezone-aware.
        verified_at: when it was last read and found good, or None.
        run: the flow run that made it.
    """

    SOPInstanceUID: UID
    SeriesInstanceUID: UID
    StudyInstanceUID: UID
    tier: str
    path: str
    member: str
    size: int
    sha256: str
    state: CopyState
    since: datetime
    verified_at: datetime | None
    run: str

    @property
    def object(self) -> StoredObject:
        """Where it is and what it must hash to."""
        return _object_of(self)


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """A study as far as it is on one tier.

    Attributes:
        received_at: when its newest instance there was received.
        used_at: when it was last received or retrieved.
        modalities: of its series.
        on_hold: whether somebody has said that it is to be kept.
    """

    StudyInstanceUID: UID
    tier: str
    instances: int
    bytes: int
    received_at: datetime
    used_at: datetime
    modalities: tuple[str, ...] = ()
    on_hold: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes where instances are, and why.

    Attributes:
        run: the flow run's id.
        flow: its flow.
        action: what is done to a study, as a past participle: "migrated", "archived", "removed", …
        policy: the rule that it follows, or "manual".
        at: when, timezone-aware.
    """

    run: str
    flow: str
    action: str
    policy: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """A study that retention must not touch, from now until an instant or, with None, for ever."""

    StudyInstanceUID: UID
    reason: str
    placed_by: str
    placed_at: datetime | None = None
    until: datetime | None = None


class RemovedState(StrEnum):
    """How far the removal of an instance has come."""

    LEAVING = "leaving"  # out of the keys; a run works on the rest, or was killed while it did
    QUARANTINED = "quarantined"  # out of the index; the object is kept
    RESTORED = "restored"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Removed:
    """An instance that retention has taken out, with what it was held as.

    Attributes:
        destroy_after: until when it can be brought back.
    """

    SOPInstanceUID: UID
    SeriesInstanceUID: UID
    StudyInstanceUID: UID
    tier: str
    path: str
    size: int
    sha256: str
    state: RemovedState
    removed_at: datetime
    destroy_after: datetime
    policy: str
    run: str

    @property
    def object(self) -> StoredObject:
        """What it was held as."""
        return _object_of(self)


def _object_of(each: "Copy | Removed | InstanceRecord", *, sop_class: UID = UID(""), transfer_syntax: UID = UID("")) -> StoredObject:
    """SOP class and transfer syntax are not kept where an instance is not held."""
    return StoredObject(
        SOPInstanceUID=each.SOPInstanceUID,
        SOPClassUID=sop_class,
        TransferSyntaxUID=transfer_syntax,
        SeriesInstanceUID=each.SeriesInstanceUID,
        StudyInstanceUID=each.StudyInstanceUID,
        tier=each.tier,
        path=each.path,
        size=each.size,
        sha256=each.sha256,
    )


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One stored instance, as journalled and indexed."""

    SOPInstanceUID: UID
    SOPClassUID: UID
    TransferSyntaxUID: UID
    SeriesInstanceUID: UID
    StudyInstanceUID: UID
    header: Header  # the indexed attributes of all four levels
    tier: str
    path: str  # within the tier, "/" separated
    size: int  # bytes of the whole object, preamble and file meta included
    sha256: str  # of the whole object, 64 lower-case hex digits
    origin: Origin
    replaces: bool = False  # the policy was `replace`: an older object of this SOPInstanceUID gives way

    @property
    def object(self) -> StoredObject:
        """Where the instance is, without what it says."""
        return _object_of(self, sop_class=self.SOPClassUID, transfer_syntax=self.TransferSyntaxUID)


class Permission(StrEnum):
    """What a peer may do."""

    STORE = "store"  # C-STORE to us
    QUERY = "query"
    RETRIEVE = "retrieve"  # C-MOVE and C-GET from us
    RECEIVE = "receive"  # be the destination of a C-MOVE
    WORKLIST = "worklist"
    MPPS = "mpps"
    UPS = "ups"
    COMMITMENT = "commitment"
    PRINT = "print"


@dataclass(frozen=True, slots=True)
class Peer:
    """A remote application entity that the archive knows, and may call.

    Attributes:
        tls: whether it is called over TLS.
        permissions: what it may do; everything where none is named.
        transfer_syntaxes: in which it is sent instances; any where none is named.
    """

    ae_title: AETitle
    host: str
    port: int
    tls: bool = False
    permissions: tuple[Permission, ...] = ()
    transfer_syntaxes: tuple[UID, ...] = ()

    def may(self, permission: Permission) -> bool:
        """Whether it may do that."""
        return not self.permissions or permission in self.permissions


@dataclass(frozen=True, slots=True)
class AssociationRecord:
    """What an association did.

    Attributes:
        id: as in the log; unique until the listener is started again.
        address: of the peer, host:port.
        implementation: the peer's implementation version name.
        user, user_type: whom the peer has named as its user (PS3.7 D.3.3.7), unchecked; "" for nobody.
        ended: "released", or why it ended otherwise.
        bytes: of data sets that were received and sent.
        operations: how often an operation ended in which status, as "C-STORE 0000".
    """

    id: str
    calling_ae: str
    called_ae: str
    address: str
    implementation: str
    user: str
    user_type: str
    opened_at: datetime
    closed_at: datetime
    ended: str
    bytes: int
    operations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Recall:
    """A study that somebody wants back from where it must be rehydrated first.

    Attributes:
        wanted_at: when somebody first did.
        asked_at: when its provider was asked for all of it; None if that is still to be done.
        available_at: when all of it could be read; None until then.
    """

    StudyInstanceUID: UID
    wanted_at: datetime
    asked_at: datetime | None = None
    available_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PriorRequest:
    """A patient who is expected, and whose earlier studies are wanted here by then.

    Attributes:
        day: when the patient is expected, as the local time of the department has it.
        IssuerOfPatientID, Modality, BodyPartExamined: "" where unknown; the last two are of what is going to be done.
        reason: who wants them: "worklist" (a worklist query named the patient), "schedule" or "manual".
    """

    PatientID: str
    day: date
    IssuerOfPatientID: str = ""
    Modality: str = ""
    BodyPartExamined: str = ""
    reason: str = "manual"


@dataclass(frozen=True, slots=True)
class Prior:
    """A study that is to be fetched.

    Attributes:
        sources: AE titles of the peers that have it, the best first. Never empty.
        instances: how many it has there; 0 where no source says so.
    """

    StudyInstanceUID: UID
    sources: tuple[str, ...]
    instances: int


@dataclass(frozen=True, slots=True)
class PriorAttempt:
    """The claim of whoever may fetch a study now, from one source.

    Attributes:
        source: the AE title of the peer.
        instances: as of Prior.
        number: of this claim of the study; a later claim of the same study has a larger one.
        rounds: how often all of its sources have failed before.
        is_last_source: whether the round ends with this one.
    """

    StudyInstanceUID: UID
    source: str
    instances: int
    number: int
    rounds: int
    is_last_source: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A C-FIND identifier, or the keys of a retrieve, in textual form (PS3.4 C.4.1.1.3.1).

    Attributes:
        level: the level whose entities are wanted.
        keys: keyword to matching value; "" is universal matching (return key). Sequences hold one item's keys.
        combined_datetime: date and time of a pair are matched as one instant (negotiated, PS3.4 C.5.1.1).
        fuzzy_names: person names are matched for what they probably mean (negotiated, C.2.2.2.1.1).
    """

    level: Level
    keys: Header = field(default_factory=dict)
    combined_datetime: bool = False
    fuzzy_names: bool = False
