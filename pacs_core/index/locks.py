"""The advisory locks of PostgreSQL that processes of an archive exclude each other by. Each number means one thing to every version."""

from typing import Final

PREPARATION: Final = 0x70616373_00000001  # one at a time prepares the catalog
COMMIT: Final = 0x70616373_00000002  # one at a time commits to the lake, for as long as that takes
REPORTS: Final = 0x70616373_00000003  # one at a time claims event reports
PRIORS: Final = 0x70616373_00000004  # one at a time claims a prior
PRINTS: Final = 0x70616373_00000005  # one at a time enters a print job

# The first halves of locks that mean something with a name, which is the second.
STUDIES: Final = 0x70616373
RULES: Final = 0x70616374
