import pytest
from pydicom import Dataset
from pydicom.dataelem import DataElement

from pacs_core.dicom.kinds import check_kinds
from pacs_core.errors import InvalidAttributeValue


def with_element(keyword: str, value_representation: str, value: object) -> Dataset:
    ds = Dataset()
    ds.add(DataElement(keyword, value_representation, value))
    return ds


@pytest.mark.parametrize(
    ("keyword", "value_representation", "value"),
    [
        ("PatientName", "SQ", []),
        ("ProcedureStepProgressInformationSequence", "LO", ""),
        ("SOPClassUID", "AT", 0x00100010),
        ("Rows", "UT", "5" * 5000),
        ("LUTDescriptor", "LO", "a"),
        ("PixelData", "LT", "text"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_is_of_another_kind_is_refused_wherever_it_is(keyword: str, value_representation: str, value: object, nested: bool) -> None:
    ds = with_element(keyword, value_representation, value)
    if nested:
        outer = Dataset()
        outer.ReferencedStudySequence = [ds]
        ds = outer
    with pytest.raises(InvalidAttributeValue, match=keyword):
        check_kinds(ds)


def test_what_the_standard_leaves_open_and_one_text_for_another_are_not() -> None:
    ds = Dataset()
    for keyword, value_representation, value in (
        ("LUTData", "OW", b"\0\0"),
        ("LUTData", "US", [1, 2]),
        ("SmallestImagePixelValue", "SS", -1),
        ("PatientID", "LT", "P1"),
        (0x00091001, "SQ", []),
        (0x00080000, "UL", 4),
    ):
        ds.add(DataElement(keyword, value_representation, value))
        check_kinds(ds)
