"""Which SOP classes can be stored and which transfer syntaxes exist (PS3.4 B.5 and GG.3, PS3.5 10, PS3.6 annex A)."""

from functools import cache

from pydicom._uid_dict import UID_dictionary  # pydicom's copy of PS3.6 annex A has no public iterator

from pacs_core.errors import ConfigurationError
from pacs_core.model import UID

# They have "Storage" in their names but are not stored: the directory of a medium, and the commitment service.
_NOT_STORED = {"1.2.840.10008.1.3.10", "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.2"}
# Defined after the edition that pydicom's dictionary was made from.
_RECENT = {
    "1.2.840.10008.5.1.4.1.1.9.100.1",  # Waveform Presentation State Storage
    "1.2.840.10008.5.1.4.1.1.9.100.2",  # Waveform Acquisition Presentation State Storage
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation Storage
    "1.2.840.10008.5.1.4.1.1.66.8",  # Height Map Segmentation Storage
}
# Transfer syntaxes of other transports (MIME, XML, real-time video): no data set of theirs comes over an association.
_NOT_DIMSE = ("1.2.840.10008.1.2.6.", "1.2.840.10008.1.2.7.", "1.2.840.10008.1.20")

# Deflated Explicit VR Little Endian (PS3.5 A.5) and JPIP and JPIP HTJ2K Referenced Deflate (A.7, A.12).
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

_STANDARD_PREFIX = "1.2.840.10008."


@cache
def storage_sop_classes() -> frozenset[str]:
    """Every storage SOP class of the Standard, retired ones included: old studies must stay readable."""
    named = {uid for uid, entry in UID_dictionary.items() if entry[1] == "SOP Class" and "Storage" in entry[0]}
    return frozenset((named | _RECENT) - _NOT_STORED)


@cache
def transfer_syntaxes() -> frozenset[str]:
    """Every transfer syntax in which a data set can arrive over an association."""
    known = (uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax")
    return frozenset(uid for uid in known if not uid.startswith(_NOT_DIMSE))


def transfer_syntax_named(text: str) -> UID:
    """The transfer syntax that a person means: a UID, a keyword of PS3.6 (`JPEG2000Lossless`) or its name. ConfigurationError."""
    wanted = text.replace(" ", "").lower()
    for uid in transfer_syntaxes():
        name, keyword = UID_dictionary[uid][0], UID_dictionary[uid][4]
        if wanted in (uid, keyword.lower(), name.replace(" ", "").lower()):
            return UID(uid)
    raise ConfigurationError(f"{text!r} is no transfer syntax that the archive knows; give its UID, such as 1.2.840.10008.1.2.1")


def is_deflated(transfer_syntax: str) -> bool:
    """Whether whole data sets are compressed in a transfer syntax, and not just their pixel data."""
    return transfer_syntax in _DEFLATED


def is_storable(sop_class_uid: str, *, private: bool) -> bool:
    """Whether instances of a SOP class are stored; `private` allows those that the Standard does not define."""
    return sop_class_uid in storage_sop_classes() or (private and not sop_class_uid.startswith(_STANDARD_PREFIX))


def common_storage_sop_classes() -> list[str]:
    """The current storage SOP classes, general ones first: their UIDs are the short ones."""
    current = (uid for uid in storage_sop_classes() if not UID_dictionary.get(uid, ("", "", "", "", ""))[3])
    return sorted(current, key=lambda uid: (len(uid), uid))
