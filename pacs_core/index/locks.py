"""The advisory locks of PostgreSQL that processes of an archive exclude each other by. Each number means one thing to every version."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from pacs_core.errors import IndexUnavailable
from pacs_core.index.postgres import CatalogURL, Session

PREPARATION: Final = 0x70616373_00000001  # one at a time prepares the catalog
COMMIT: Final = 0x70616373_00000002  # one at a time commits to the lake, for as long as that takes
REPORTS: Final = 0x70616373_00000003  # one at a time claims event reports
PRIORS: Final = 0x70616373_00000004  # one at a time claims a prior
PRINTS: Final = 0x70616373_00000005  # one at a time enters a print job

# The first halves of locks that mean something with a name, which is the second.
STUDIES: Final = 0x70616373
RULES: Final = 0x70616374


@contextmanager
def locking(url: CatalogURL, *, application_name: str) -> Iterator[Session]:
    """A connection for advisory locks. They are free when the context ends, by whatever, and when the process dies. IndexUnavailable."""
    session = Session(url, application_name=application_name)
    try:
        yield session
    finally:
        with suppress(IndexUnavailable):  # a closed connection is noticed by the server a moment later, and only then lets go
            session.run("SELECT pg_advisory_unlock_all()")
        session.close()
