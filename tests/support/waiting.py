"""Waiting for a condition, instead of sleeping for as long as it may take."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE = 0.05


def eventually(condition: Callable[[], T | None], *, within: float = 30, what: str = "the condition") -> T:
    """The first true value of `condition`, or AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {within} s (last: {value!r})")
        time.sleep(_PAUSE)
