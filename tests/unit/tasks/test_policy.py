"""What is repeated, and what is not."""

import asyncio
from unittest.mock import Mock

import pytest
from prefect.states import Failed, exception_to_failed_state

from pacs_core.errors import ChecksumMismatch, IndexUnavailable, StorageUnavailable
from tasks.policy import retryable


@pytest.mark.parametrize(
    ("error", "expected"),
    [(IndexUnavailable("x"), True), (StorageUnavailable("x"), True), (ChecksumMismatch("x"), False), (ValueError("x"), False)],
)
def test_only_what_the_error_tree_calls_retryable_is_repeated(error: Exception, expected: bool) -> None:
    assert retryable(Mock(), Mock(), asyncio.run(exception_to_failed_state(error))) is expected


def test_a_failure_without_an_exception_is_not_repeated() -> None:
    assert retryable(Mock(), Mock(), Failed(message="no")) is False
