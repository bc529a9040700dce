"""Where else instances are."""

from dataclasses import replace

from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.copies import CopyReader
from pacs_core.index.postgres import Database
from pacs_core.model import UID
from tests.support.records import record as make_record


def test_an_instance_is_where_its_key_says_and_where_copies_are_held(writer: LakeIndexWriter, database: Database) -> None:
    record = make_record(1)
    writer.commit([record])
    uid = record.SOPInstanceUID
    for tier, path, member, state in (
        ("warm", "b", "", "held"),
        ("cold", "a", "", "held"),
        ("cold", "pack", "member", "held"),
        ("cold", "coming", "", "arriving"),
        ("cold", "going", "", "leaving"),
    ):
        with database.transaction() as session:
            session.run(
                'INSERT INTO pacs.instance_copy ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", tier, path, member, size,'
                " sha256, state, run_id) VALUES (:uid, '1', '1', :tier, :path, :member, 1, 'd', :state, 'r')",
                uid=uid,
                tier=tier,
                path=path,
                member=member,
                state=state,
            )
    held = record.object
    copies = [replace(held, tier=tier, path=path, size=1, sha256="d") for tier, path in (("cold", "a"), ("warm", "b"))]
    assert CopyReader(database).copies([uid, UID("1.2.3.4.5")]) == {uid: [held, *copies]}
