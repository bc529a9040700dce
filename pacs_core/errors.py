"""The whole error tree.

    PacsError
    ├── ConfigurationError          a setting is wrong; the message names it and what is allowed
    ├── RequestError                the other side is at fault; sending the same again cannot help
    │   ├── InvalidUID              not a UID of PS3.5 section 9
    │   ├── UnreadableDataSet       not DICOM, or cut short
    │   ├── DataSetMismatch         readable, but contradicts the command or lacks what its SOP class needs
    │   ├── DuplicateInstance       the SOP instance is held already and the policy is `reject`
    │   ├── InvalidIdentifier       a query or retrieve identifier that cannot be answered
    │   ├── NotIndexable            it has a value that neither PostgreSQL nor the lake can hold
    │   ├── UnknownDestination      a C-MOVE destination that is no peer
    │   ├── NotFound                nothing is held under that name
    │   ├── MissingAttribute        an attribute that the Standard demands is absent
    │   ├── MissingAttributeValue   it is there, and empty
    │   ├── InvalidAttributeValue   an attribute has a value that the Standard or the archive does not allow there
    │   ├── UnknownAction           an action or event type that the SOP class does not have
    │   ├── FinishedStep            a performed procedure step that has ended cannot be changed
    │   ├── ClassConflict           an instance is of another SOP class than the request says
    │   ├── EmptyFilmSession        a film session without a film is to be printed
    │   ├── ImageTooLarge           an image does not fit its box on a film, and must not be made to
    │   └── UnifiedStepError        what is asked of a unified procedure step does not suit it as it is
    │       ├── NoUnifiedStep       there is none of that UID
    │       ├── FinalUnifiedStep    it is over and cannot be changed
    │       ├── WrongTransaction    it is locked with another Transaction UID, or none was given
    │       ├── UnifiedStepTaken    it is in progress already
    │       ├── ReturnToScheduled   a step becomes SCHEDULED by its creation only
    │       ├── FinalStateUnmet     it lacks what the Standard demands of a step that is over
    │       ├── UnknownReceiver     the AE title that is to receive reports is no peer
    │       ├── NotCreatedScheduled a new step is SCHEDULED
    │       ├── NotYetInProgress    it is to be taken first
    │       ├── CompletedUnifiedStep  it is completed and cannot be canceled
    │       ├── PerformerUnreachable  nobody would learn that it is to be canceled
    │       └── UnsuitedAction      an action that this instance does not have
    ├── UnavailableError            ours is at fault for now; the same may succeed later
    │   ├── StorageFull             no space left on a tier
    │   ├── StorageUnavailable      a tier cannot be read or written
    │   ├── ObjectArchived          an object is in a class of its provider that has to be rehydrated before it can be read
    │   ├── IndexUnavailable        PostgreSQL or the lake does not answer
    │   ├── PeerUnavailable         a remote application entity refused, vanished or timed out
    │   ├── PrinterFull             no room for an image that is to be printed
    │   ├── FilmQueueFull           too many prints are waiting for one more film
    │   └── SessionQueueFull        the same, for a film session
    └── IntegrityError              what is held is not what was stored; never served, never retried
        ├── ObjectMissing           indexed, but not on its tier
        ├── ChecksumMismatch        the bytes do not hash to the indexed SHA-256
        └── TranscodingError        the data set cannot be given in the transfer syntax that the other side wants

Each class says which DIMSE status (PS3.7 annex C, PS3.4 B.2.3, C.4) and HTTP status (RFC 9110) it answers with and
whether a retry can help; what the normalized services (DIMSE-N) answer with is a status of its own. A third-party exception is
translated once, by the package that owns the third party, with `raise ... from exc`.
"""

from typing import ClassVar


class PacsError(Exception):
    """Base of everything this product raises on purpose. The message is one sentence for a person."""

    dimse_status: ClassVar[int] = 0xC000
    normalized_status: ClassVar[int] = 0x0110
    error_id: ClassVar[int | None] = None
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False


class ConfigurationError(PacsError):
    """A setting, or the way a command was called, is wrong."""


class RequestError(PacsError):
    """The other side sent something that cannot be accepted, now or later."""

    http_status = 400


class InvalidUID(RequestError):
    """A value that is not a UID in the form of PS3.5 section 9. 0117: invalid object instance."""

    dimse_status = 0x0117
    normalized_status = 0x0117


class UnreadableDataSet(RequestError):
    """Bytes that do not parse as a data set in the transfer syntax they claim. C000: cannot understand."""

    dimse_status = 0xC000


class DataSetMismatch(RequestError):
    """A data set that contradicts the command set or lacks required UIDs. A900: does not match SOP class."""

    dimse_status = 0xA900
    http_status = 409


class DuplicateInstance(RequestError):
    """The instance is held already and `duplicates = "reject"`. 0111: duplicate SOP instance."""

    dimse_status = 0x0111
    normalized_status = 0x0111
    http_status = 409


class InvalidIdentifier(RequestError):
    """A C-FIND, C-MOVE or C-GET identifier that cannot be answered. A900: does not match SOP class."""

    dimse_status = 0xA900


class NotIndexable(RequestError):
    """An instance with a value that neither PostgreSQL nor the lake can hold. C000: cannot understand."""

    http_status = 409


class UnknownDestination(RequestError):
    """A C-MOVE destination that is not among the peers. A801: move destination unknown."""

    dimse_status = 0xA801
    http_status = 404


class NotFound(RequestError):
    """Nothing is held under that name. 0112: no such object instance."""

    dimse_status = 0x0112
    normalized_status = 0x0112
    http_status = 404


class MissingAttribute(RequestError):
    """A data set without an attribute that it needs. 0120: missing attribute."""

    dimse_status = 0xA900
    normalized_status = 0x0120


class MissingAttributeValue(RequestError):
    """An attribute of type 1 without a value. 0121: missing attribute value."""

    dimse_status = 0xA900
    normalized_status = 0x0121


class InvalidAttributeValue(RequestError):
    """An attribute with a value that is not allowed there. 0106: invalid attribute value."""

    dimse_status = 0xA900
    normalized_status = 0x0106


class UnknownAction(RequestError):
    """An action or event type that the SOP class does not have. 0123: no such action."""

    dimse_status = 0x0123
    normalized_status = 0x0123


class FinishedStep(RequestError):
    """A performed procedure step that is COMPLETED or DISCONTINUED. 0110 with error A710: may no longer be updated (PS3.4 F.7.2.2.2)."""

    dimse_status = 0x0110
    error_id = 0xA710
    http_status = 409


class UnifiedStepError(RequestError):
    """A unified procedure step is not in a state for what is asked of it (PS3.4 CC.2)."""

    http_status = 409


class NoUnifiedStep(UnifiedStepError):
    """No unified procedure step has that SOP Instance UID. C307: does not exist."""

    normalized_status = 0xC307
    http_status = 404


class FinalUnifiedStep(UnifiedStepError):
    """A unified procedure step that is COMPLETED or CANCELED. C300: may no longer be updated."""

    normalized_status = 0xC300


class WrongTransaction(UnifiedStepError):
    """A change of a unified procedure step without the Transaction UID that locks it. C301: not the correct Transaction UID."""

    normalized_status = 0xC301


class UnifiedStepTaken(UnifiedStepError):
    """A unified procedure step that is to be taken, and has been. C302: already IN PROGRESS."""

    normalized_status = 0xC302


class ReturnToScheduled(UnifiedStepError):
    """A unified procedure step that is to become SCHEDULED again. C303: only by N-CREATE."""

    normalized_status = 0xC303


class FinalStateUnmet(UnifiedStepError):
    """A unified procedure step without what it needs at its end. C304: final state requirements are not met."""

    normalized_status = 0xC304


class UnknownReceiver(UnifiedStepError):
    """Event reports for an AE title that is no peer. C308: Receiving AE unknown."""

    normalized_status = 0xC308


class NotCreatedScheduled(UnifiedStepError):
    """A new unified procedure step in another state than SCHEDULED. C309: not SCHEDULED."""

    normalized_status = 0xC309


class NotYetInProgress(UnifiedStepError):
    """A change of a unified procedure step that only its performer may make, before there is one. C310: not IN PROGRESS."""

    normalized_status = 0xC310


class CompletedUnifiedStep(UnifiedStepError):
    """A request to cancel a unified procedure step that is over. C311: already COMPLETED."""

    normalized_status = 0xC311


class PerformerUnreachable(UnifiedStepError):
    """A request to cancel a unified procedure step whose events nobody is subscribed to. C312: the performer cannot be contacted."""

    normalized_status = 0xC312


class UnsuitedAction(UnifiedStepError):
    """An action on a unified procedure step, or on a well-known instance, that the other kind has. C314: not appropriate."""

    normalized_status = 0xC314


class ClassConflict(RequestError):
    """An instance that is of another SOP class than the request says. 0119: class-instance conflict."""

    normalized_status = 0x0119


class EmptyFilmSession(RequestError):
    """A film session without a film is to be printed. C600 (PS3.4 table H.4-4)."""

    normalized_status = 0xC600


class ImageTooLarge(RequestError):
    """An image is larger than its image box, and must not be made to fit. C603 (PS3.4 table H.4.3.1.2.1.2-1)."""

    normalized_status = 0xC603


class UnavailableError(PacsError):
    """Ours is at fault for now. A700: out of resources."""

    dimse_status = 0xA700
    http_status = 503
    retryable = True


class StorageFull(UnavailableError):
    """No space left where the object should go. For DIMSE-N 0213: resource limitation."""

    normalized_status = 0x0213
    http_status = 507


class StorageUnavailable(UnavailableError):
    """A tier or the journal cannot be read or written."""


class ObjectArchived(UnavailableError):
    """An object that its provider gives out only hours after it was asked to (S3 Glacier, Azure Archive)."""

    retryable = False  # within a task; a flow comes back to it


class IndexUnavailable(UnavailableError):
    """PostgreSQL or the lake does not answer."""


class PeerUnavailable(UnavailableError):
    """A remote application entity refused the association, vanished or timed out."""

    http_status = 502


class PrinterFull(UnavailableError):
    """No room for an image that is to be printed. C605: insufficient memory (PS3.4 table H.4.3.1.2.1.2-1)."""

    normalized_status = 0xC605
    http_status = 507


class FilmQueueFull(UnavailableError):
    """Too many prints are waiting for one more film. C602 (PS3.4 table H.4-9)."""

    normalized_status = 0xC602


class SessionQueueFull(UnavailableError):
    """Too many prints are waiting for one more film session. C601 (PS3.4 table H.4-4)."""

    normalized_status = 0xC601


class IntegrityError(PacsError):
    """What is held is not what was stored. C000; never served."""


class ObjectMissing(IntegrityError):
    """The index names an object that is not on its tier."""


class ChecksumMismatch(IntegrityError):
    """The bytes do not hash to the indexed SHA-256."""


class TranscodingError(IntegrityError):
    """The pixel data or structure of a held instance defeats the change of transfer syntax that was asked for."""
