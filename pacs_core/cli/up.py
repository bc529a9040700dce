"""up. Apart from the other commands: the supervisor needs nothing of the archive itself, and should start at once."""

from pathlib import Path

from pacs_core import supervisor
from pacs_core.cli.errors import Failed
from pacs_core.settings import load_settings
from pacs_core.telemetry import logging as telemetry


def up(home: Path | None) -> None:
    """Run the whole archive until it is told to stop."""
    settings = load_settings(home)
    telemetry.configure(settings.log_level)
    if supervisor.run(settings):
        raise Failed
