"""`python -m pacs_core.web`: the web process, as `pacs up` starts it."""

import uvicorn

from pacs_core.settings import load_settings
from pacs_core.telemetry.logging import configure
from pacs_core.web.app import create_app
from pacs_core.web.health import of_archive


def main() -> None:
    """Serve until SIGTERM."""
    settings = load_settings()
    configure(settings.log_level)
    app = create_app(of_archive(settings))
    uvicorn.run(app, host=settings.http_host, port=settings.http_port, log_config=None, timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
