"""The boundary of the command line: an error becomes one clear line and an exit status."""

import sys
from collections.abc import Callable

from pacs_core.errors import ConfigurationError, PacsError

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


class Failed(PacsError):
    """The thing that was asked for did not work out; everything has been said already."""


def exit_status(command: Callable[[], object]) -> int:
    """Run a command: 0 done, 1 the thing asked failed, 2 wrong usage or settings."""
    try:
        command()
    except Failed:
        return FAILED
    except ConfigurationError as exc:
        return _say(exc, WRONG_USAGE)
    except PacsError as exc:
        return _say(exc, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 0
    except SystemExit as exc:  # Typer's own way to end, after --help and usage errors
        return exc.code if isinstance(exc.code, int) else FAILED
    return 0


def _say(exc: PacsError, status: int) -> int:
    for line in str(exc).splitlines():
        sys.stderr.write(f"pacs: {line}\n")
    return status
