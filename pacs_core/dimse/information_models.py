"""The Query/Retrieve information models (PS3.4 C.3, C.6): which SOP class is which service on which levels."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pacs_core.model import Level

_PATIENT_ROOT = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.IMAGE)
_STUDY_ROOT = (Level.STUDY, Level.SERIES, Level.IMAGE)
_PATIENT_STUDY_ONLY = (Level.PATIENT, Level.STUDY)


class Operation(Enum):
    """What is asked for."""

    FIND = "find"
    MOVE = "move"
    GET = "get"


@dataclass(frozen=True, slots=True)
class InformationModel:
    """One Query/Retrieve SOP class."""

    operation: Operation
    levels: tuple[Level, ...]


MODELS: Mapping[str, InformationModel] = {
    f"1.2.840.10008.5.1.4.1.2.{root}.{number}": InformationModel(operation, levels)
    for root, levels in ((1, _PATIENT_ROOT), (2, _STUDY_ROOT), (3, _PATIENT_STUDY_ONLY))
    for number, operation in ((1, Operation.FIND), (2, Operation.MOVE), (3, Operation.GET))
}

# The models a client may choose from, by the name that people use.
ROOTS = {"patient": 1, "study": 2}


def sop_class(root: str, operation: Operation) -> str:
    """The SOP class of an operation in the model `patient` or `study`."""
    number = {Operation.FIND: 1, Operation.MOVE: 2, Operation.GET: 3}[operation]
    return f"1.2.840.10008.5.1.4.1.2.{ROOTS[root]}.{number}"
