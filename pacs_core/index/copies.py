"""Where instances are besides where they were looked for: ports.Copies in PostgreSQL. Only reads."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pacs_core.index.keys import OBJECT_COLUMNS
from pacs_core.index.postgres import Database
from pacs_core.model import UID, StoredObject

_KEYED = ", ".join(f'k."{name}"' for name in OBJECT_COLUMNS)
_COPIED = ", ".join(f'{"c" if name in ("tier", "path", "size", "sha256") else "k"}."{name}"' for name in OBJECT_COLUMNS)
# A copy inside of another file (member) is no object of its own.
_SELECT = f"""
    SELECT * FROM (
        SELECT {_KEYED}, 0 AS rank FROM pacs.instance_key k WHERE k."SOPInstanceUID" = ANY(CAST(:uids AS text[]))
        UNION ALL
        SELECT {_COPIED}, 1 FROM pacs.instance_copy c JOIN pacs.instance_key k USING ("SOPInstanceUID")
        WHERE c."SOPInstanceUID" = ANY(CAST(:uids AS text[])) AND c.state = 'held' AND c.member = ''
    ) found ORDER BY rank, tier, path
"""  # noqa: S608 constants


class CopyReader:
    """ports.Copies. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def copies(self, SOPInstanceUIDs: Sequence[UID]) -> Mapping[UID, Sequence[StoredObject]]:
        """Where each instance is now, then its copies; see ports.Copies."""
        found: dict[UID, list[StoredObject]] = defaultdict(list)
        with self._database.transaction() as session:
            for *columns, _ in session.run(_SELECT, uids=list(SOPInstanceUIDs)):
                place = StoredObject(*columns)
                found[place.SOPInstanceUID].append(place)
        return found
