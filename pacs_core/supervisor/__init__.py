"""`pacs up`: the parts of one archive as supervised child processes, and what the other commands know about them.

up        start, supervise and stop everything
plan      which parts an archive with given settings has
supervisor, process, part   how a part is looked after
postgres  the embedded PostgreSQL, and where the catalog is
runtime   what a running archive tells the other commands
flow_api  deployments and runs, through Prefect's REST API
flow_schedules, flow_statistics   when flows run, and what their runs come to
"""

from pacs_core.settings import Settings
from pacs_core.supervisor.part import PartStatus


def run(settings: Settings) -> int:
    """Run the archive until SIGTERM or SIGINT; the exit status of `pacs up`."""
    from pacs_core.supervisor import up  # asyncio and the rest only where an archive is started

    return up.run(settings)


def status(settings: Settings) -> list[PartStatus]:
    """Every part of the archive as it is now; all `stopped` where it does not run."""
    from pacs_core.supervisor import up

    return up.status(settings)
