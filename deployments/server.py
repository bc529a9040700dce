"""Prefect's server as `pacs up` runs it: what `prefect server start` does, except that it waits for its database.

Importing the server takes seconds; so it is started at once and waits here while PostgreSQL is initialised.
"""

# ruff: noqa: E402 - the collector is off before the imports

import gc

gc.disable()  # importing Prefect makes objects by the hundred thousand and no garbage: looking for some took a sixth of the start

import asyncio
import contextlib
import socket
import time

import asyncpg  # type: ignore[import-untyped]  # ships no type information
import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database import provide_database_interface
from prefect.server.models.block_registration import run_block_auto_registration
from prefect.settings import get_current_settings
from sqlalchemy.engine import make_url

_PATIENCE = 100.0  # seconds; PostgreSQL may have a crash to recover from
_QUIET_AFTER = 20.0  # seconds after which the other parts have started too
_GRACE = 3  # seconds for open connections (the UI keeps some) when asked to stop


async def _wait_for_database(url: str) -> None:
    target = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection = await asyncpg.connect(target, timeout=5)
        except (OSError, asyncpg.PostgresError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            return


class _Server(uvicorn.Server):
    """Registers Prefect's block types once it has served for a while: at the start they would cost seconds."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._registration = asyncio.create_task(_register_block_types())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._registration.cancel()
        await super().shutdown(sockets)


async def _register_block_types() -> None:
    await asyncio.sleep(_QUIET_AFTER)
    async with await provide_database_interface().session() as session:
        await run_block_auto_registration(session=session)


def main() -> None:
    """Serve until SIGTERM."""
    server = get_current_settings().server
    assert server.database.connection_url is not None
    url = server.database.connection_url.get_secret_value()
    app = create_app(final=True)
    gc.freeze()  # what was imported stays
    gc.enable()
    if url.startswith("postgresql"):
        asyncio.run(_wait_for_database(url))
    with contextlib.suppress(KeyboardInterrupt):
        config = uvicorn.Config(app, host=server.api.host, port=server.api.port, log_level="warning", timeout_graceful_shutdown=_GRACE)
        _Server(config).run()


if __name__ == "__main__":
    main()
