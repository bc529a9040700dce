"""Access times: at most one write a minute for a study, and never anybody's trouble."""

from collections.abc import Sequence
from contextlib import closing

from pacs_core.archive.accesses import AccessLog
from pacs_core.errors import IndexUnavailable
from pacs_core.model import UID
from tests.support.retrieving import FakeAccesses


def test_a_study_is_written_once_in_an_interval() -> None:
    accesses, now = FakeAccesses(), [0.0]
    with closing(AccessLog(accesses, interval=60, now=lambda: now[0])) as log:
        log.note([UID("1.1"), UID("1.2")])
        now[0] = 59
        log.note([UID("1.1"), UID("1.3")])
        now[0] = 60
        log.note([UID("1.1"), UID("1.3")])
        log.note([])
    assert accesses.recorded == [["1.1", "1.2"], ["1.3"], ["1.1"]]


def test_an_index_that_is_away_is_nobodys_trouble() -> None:
    class Away:
        def record(self, studies: Sequence[UID]) -> None:
            raise IndexUnavailable("away")

    log = AccessLog(Away())
    log.note([UID("1.1")])
    log.close()
    log.note([UID("1.2")])
