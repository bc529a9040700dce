"""What associations did, in PostgreSQL."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from pacs_core.index.postgres import Database
from pacs_core.model import AssociationRecord

_INSERT = """
    INSERT INTO pacs.association
        (association, calling_ae, called_ae, address, implementation, "user", user_type, opened_at, closed_at, ended, bytes, operations)
    SELECT id, calling_ae, called_ae, address, implementation, "user", user_type, opened_at, closed_at, ended, bytes, operations
    FROM json_to_recordset(CAST(:records AS json)) AS r(
        id text, calling_ae text, called_ae text, address text, implementation text, "user" text, user_type text,
        opened_at timestamptz, closed_at timestamptz, ended text, bytes bigint, operations json)
"""


class Associations:
    """One row per association that was served. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, records: Sequence[AssociationRecord]) -> None:
        """Write them down."""
        rows = json.dumps([asdict(record) for record in records], default=datetime.isoformat)
        with self._database.transaction() as session:
            session.run(_INSERT, records=rows)
