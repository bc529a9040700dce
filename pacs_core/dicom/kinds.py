"""Whether elements are of the kind that the Standard says (PS3.6): a sequence, numbers, bytes or text. Pure."""

from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR

from pacs_core.errors import InvalidAttributeValue

_NUMBERS = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


def check_kinds(ds: Dataset) -> None:
    """InvalidAttributeValue where an element of a data set, or of one in its sequences, is of another kind than its attribute.

    Whoever reads one then knows what he gets. One text for another is forgiven; private and unknown attributes may be anything.
    """
    for element in ds:
        if dictionary_has_tag(element.tag) and _kind(element.VR) not in {_kind(each) for each in dictionary_VR(element.tag).split(" or ")}:
            raise InvalidAttributeValue(f"{element.keyword} is of the value representation {element.VR}, which it cannot be")
        for item in element.value if element.VR == "SQ" else ():
            check_kinds(item)


def _kind(value_representation: str) -> str:
    if value_representation in _NUMBERS:
        return "numbers"
    if value_representation in _BYTES:
        return "bytes"
    return "sequence" if value_representation == "SQ" else "text"
