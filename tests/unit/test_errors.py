"""The error tree keeps its promises to whoever answers with it."""

import re

import pytest

from pacs_core import errors
from pacs_core.errors import IntegrityError, ObjectArchived, PacsError, RequestError, UnavailableError


def _tree(root: type[PacsError]) -> list[type[PacsError]]:
    return [root, *(each for child in root.__subclasses__() for each in _tree(child))]


EVERY = [each for each in _tree(PacsError) if each.__module__ == errors.__name__]


@pytest.mark.parametrize("error", EVERY)
def test_no_error_answers_success(error: type[PacsError]) -> None:
    assert error.dimse_status != 0x0000
    assert error.http_status >= 400


@pytest.mark.parametrize("error", EVERY)
def test_only_what_is_ours_and_passing_can_be_retried(error: type[PacsError]) -> None:
    # What has to be rehydrated first passes too, but in hours: a task that repeats itself only waits in vain.
    assert error.retryable == (issubclass(error, UnavailableError) and error is not ObjectArchived)


@pytest.mark.parametrize("error", EVERY)
def test_http_status_tells_whose_fault_it_is(error: type[PacsError]) -> None:
    assert (error.http_status < 500) == issubclass(error, RequestError)


@pytest.mark.parametrize("error", [each for each in EVERY if issubclass(each, UnavailableError)])
def test_unavailable_answers_out_of_resources(error: type[PacsError]) -> None:
    assert error.dimse_status == 0xA700


def test_the_drawing_names_every_class_once() -> None:
    drawing = (errors.__doc__ or "").split("Each class says")[0]
    names = re.findall(r"^[\s│├└─]*([A-Z][A-Za-z]+)(?:\s|$)", drawing, flags=re.MULTILINE)
    drawn = [name for name in names if name.endswith(("Error", "UID", "Set", "Mismatch")) or hasattr(errors, name)]
    assert sorted(drawn) == sorted(each.__name__ for each in EVERY)


@pytest.mark.parametrize("error", [each for each in EVERY if issubclass(each, IntegrityError)])
def test_damaged_objects_are_never_retried(error: type[PacsError]) -> None:
    assert not error.retryable
