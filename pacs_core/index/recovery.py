"""What a rebuild asks of the index besides its commits: whether it is empty, and that it names each object that was found."""

import json
from collections.abc import Sequence
from datetime import datetime

from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.keys import OBJECT_COLUMNS, read_keys
from pacs_core.index.schema import clean
from pacs_core.index.texts import named_texts, texts
from pacs_core.model import UID, StoredObject

_GIVEN = (
    'json_to_recordset(CAST(:rows AS json)) AS given("SOPInstanceUID" text, "SeriesInstanceUID" text, "StudyInstanceUID" text,'
    " tier text, path text, size bigint, sha256 text)"
)
_ADD_COPIES = f"""
    INSERT INTO pacs.instance_copy ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", tier, path, size, sha256, state, run_id)
    SELECT "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", tier, path, size, sha256, 'held', :run FROM {_GIVEN}
    ON CONFLICT DO NOTHING
"""  # noqa: S608 constants
_MOVE_KEYS = f"""
    UPDATE pacs.instance_key AS held SET tier = given.tier, path = given.path FROM {_GIVEN}
    WHERE held."SOPInstanceUID" = given."SOPInstanceUID" AND held.sha256 = given.sha256
"""  # noqa: S608 constants
_FORGET_COPIES = f"""
    DELETE FROM pacs.instance_copy AS copy USING {_GIVEN}
    WHERE copy."SOPInstanceUID" = given."SOPInstanceUID" AND copy.tier = given.tier AND copy.path = given.path AND copy.member = ''
"""  # noqa: S608 constants
_FILLED = """
    SELECT EXISTS (SELECT 1 FROM lake.patient) OR EXISTS (SELECT 1 FROM lake.study) OR EXISTS (SELECT 1 FROM lake.series)
        OR EXISTS (SELECT 1 FROM lake.instance)
"""


class IndexRecovery:
    """Works on the index through its writer. Thread-safe; every method may be repeated."""

    def __init__(self, writer: LakeIndexWriter) -> None:
        self._writer = writer

    def is_empty(self) -> bool:
        """Whether nothing is, or is about to be, indexed."""
        with self._writer.committing() as (session, lake):
            if session.run("SELECT 1 FROM pacs.instance_key LIMIT 1"):
                return False
            return lake.execute(_FILLED).fetchone() == (False,)

    def elsewhere(self, objects: Sequence[StoredObject]) -> Sequence[tuple[StoredObject, StoredObject]]:
        """Those objects whose instance is held by another one, each with that other one."""
        with self._writer.committing() as (session, _):
            held = read_keys(session, {UID(clean(each.SOPInstanceUID)) for each in objects}).current
        pairs = [(each, holder.object) for each in objects if (holder := held.get(UID(clean(each.SOPInstanceUID)))) is not None]
        return [(each, holder) for each, holder in pairs if (each.tier, clean(each.path)) != (holder.tier, holder.path)]

    def add_copies(self, objects: Sequence[StoredObject], run: str) -> None:
        """Enter further good objects of instances."""
        if objects:
            with self._writer.committing() as (session, _):
                session.run(_ADD_COPIES, rows=_encode(objects), run=run)

    def relocate(self, objects: Sequence[StoredObject], when: datetime, run: str) -> None:
        """Say that instances are held by these objects: what held them is gone. Only where the bytes are the same."""
        if not objects:
            return
        with self._writer.committing() as (session, lake):
            with session.transaction():
                session.run(_MOVE_KEYS, rows=_encode(objects))
                session.run(_FORGET_COPIES, rows=_encode(objects))
            with self._writer.files.transaction(lake):
                columns = ", ".join(f"{named_texts(name)} AS {name}" for name in ("uid", "tier", "path", "sha256"))
                lake.execute(
                    "UPDATE lake.instance SET tier = found.tier, path = found.path, located_at = $when, located_by = $run"  # noqa: S608 constants
                    f" FROM (SELECT {columns}) AS found"
                    " WHERE instance.SOPInstanceUID = found.uid AND instance.sha256 = found.sha256",
                    {
                        "when": when,
                        "run": run,
                        "uid": texts(clean(each.SOPInstanceUID) for each in objects),
                        "tier": texts(each.tier for each in objects),
                        "path": texts(clean(each.path) for each in objects),
                        "sha256": texts(each.sha256 for each in objects),
                    },
                )

    def close(self) -> None:
        """Release everything."""
        self._writer.close()


def _encode(objects: Sequence[StoredObject]) -> str:
    return clean(json.dumps([{name: getattr(each, name) for name in OBJECT_COLUMNS} for each in objects], ensure_ascii=False))
