"""What associations did, as SQL sees it."""

from datetime import UTC, datetime, timedelta

from pacs_core.index.associations import Associations
from pacs_core.index.postgres import Database
from pacs_core.model import AssociationRecord

CLOSED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def record(number: int) -> AssociationRecord:
    return AssociationRecord(
        id=f"7-{number}",
        calling_ae="CT1",
        called_ae="PACS",
        address="10.0.0.1:5000",
        implementation="DCMTK",
        user="Jürgen 'x'",
        user_type="username",
        opened_at=CLOSED - timedelta(seconds=number),
        closed_at=CLOSED,
        ended="released",
        bytes=number,
        operations={"C-STORE 0000": number},
    )


def test_each_association_is_one_row(database: Database) -> None:
    Associations(database).record([record(1), record(2)])
    with database.transaction() as session:
        rows = session.run(
            'SELECT association, calling_ae, "user", extract(epoch FROM closed_at - opened_at)::int, bytes, operations'
            " FROM pacs.association ORDER BY number"
        )
    assert [list(row) for row in rows] == [
        ["7-1", "CT1", "Jürgen 'x'", 1, 1, {"C-STORE 0000": 1}],
        ["7-2", "CT1", "Jürgen 'x'", 2, 2, {"C-STORE 0000": 2}],
    ]
