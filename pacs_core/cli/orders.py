"""hl7: takes orders until it is told to stop."""

from pathlib import Path

from pacs_core.cli.committing import tell_ready
from pacs_core.cli.stopping import serve_until_signalled
from pacs_core.settings import load_settings
from pacs_core.telemetry import logging as telemetry
from pacs_core.wiring import orders


def serve(home: Path | None) -> None:
    """Listen on hl7_port. ConfigurationError if none is set, or it cannot be had."""
    settings = load_settings(home)
    telemetry.configure(settings.log_level)
    with orders.order_server(settings) as server:
        server.bind()
        tell_ready()
        serve_until_signalled(server.serve, server.stop)
