"""Requests for storage commitment that come again: answered again, from what was reported or by another look."""

from datetime import UTC, datetime, timedelta

import pytest

from pacs_core.index.commitments import Commitments
from pacs_core.index.event_reports import EventReports
from pacs_core.index.postgres import Database
from pacs_core.ports.commitment import Entered, Reference
from pacs_core.ports.modality import Report

LEASE = timedelta(seconds=30)
REFERENCES = [Reference("1.2.840.10008.5.1.4.1.1.2", "1.1")]
REPORT = Report("CT1", "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", 1, {})


@pytest.fixture
def commitments(database: Database) -> Commitments:
    return Commitments(database)


def checked(commitments: Commitments) -> int:
    """The number of the report of the one request that is due."""
    claimed = commitments.claim(lease=LEASE)
    assert claimed is not None
    owed = commitments.finish(claimed.number, {}, REPORT)
    assert owed is not None
    return owed


def test_one_that_comes_again_before_it_is_checked_is_the_same(commitments: Commitments) -> None:
    first = commitments.enter("CT1", "1.2.3", REFERENCES)
    assert commitments.enter("CT1", "1.2.3", REFERENCES) == first == Entered(first.number, None)
    checked(commitments)
    assert commitments.claim(lease=LEASE) is None


def test_one_that_comes_again_is_owed_what_was_reported(database: Database, commitments: Commitments) -> None:
    number = commitments.enter("CT1", "1.2.3", REFERENCES).number
    owed = checked(commitments)
    reports = EventReports(database)
    reports.delivered(reports.claim(limit=1, lease=LEASE)[0].number)
    assert commitments.enter("CT1", "1.2.3", REFERENCES) == Entered(number, owed)
    assert commitments.claim(lease=LEASE) is None
    assert [each.number for each in reports.claim(limit=9, lease=LEASE)] == [owed]


def test_one_that_comes_again_when_its_report_is_forgotten_is_checked_again(database: Database, commitments: Commitments) -> None:
    number = commitments.enter("CT1", "1.2.3", REFERENCES).number
    checked(commitments)
    reports = EventReports(database)
    reports.delivered(reports.claim(limit=1, lease=LEASE)[0].number)
    assert reports.forget(datetime.now(UTC) + timedelta(hours=1)) == 1
    assert commitments.enter("CT1", "1.2.3", REFERENCES) == Entered(number, None)
    again = checked(commitments)
    assert [each.number for each in reports.claim(limit=9, lease=LEASE)] == [again]
