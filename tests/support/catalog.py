"""One PostgreSQL for many short-lived archives: a database each instead of a cluster each."""

import itertools
import os
import signal
import subprocess
from functools import cached_property
from pathlib import Path

from pacs_core.index.lake import prepare_index
from pacs_core.index.postgres import CatalogURL, Session
from pacs_core.supervisor.postgres import SUPERUSER, EmbeddedPostgres


class Catalogs:
    """An embedded PostgreSQL that hands out empty databases.

    Args:
        hasty: it leaves it to the kernel when to write. Nothing is lost for it by kill -9, as by a power failure, and tests that wait
            for its syncs are several times slower on a busy disk.
    """

    def __init__(self, directory: Path, *, hasty: bool = False) -> None:
        self._options = ["-c", "fsync=off"] if hasty else []
        self._server = EmbeddedPostgres(data_dir=directory / "data", socket_dir=directory / "socket")
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "postgres.log"
        self._template_data = directory / "template"

    def start(self) -> None:
        """Return when it answers."""
        self._server.initialise()
        user = self._server.user
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._server.command(), *self._options],
                user=user,
                extra_groups=None if user is None else [],
                cwd="/",
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._server.wait_ready()

    def stop(self) -> None:
        """Shut it down without waiting for its clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=30)

    def kill(self) -> None:
        """kill -9; `start` recovers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)

    def new(self) -> str:
        """The URL of a new, empty database."""
        name = f"catalog_{next(self._numbers)}"
        self._server.create_databases(name)
        return self._server.url(name)

    def prepared(self) -> str:
        """The URL of a new database with the tables of an empty index. They are copied; to make them takes most of a second."""
        name, template = f"catalog_{next(self._numbers)}", self._template
        session = Session(CatalogURL.parse(self._server.url(SUPERUSER)), application_name="test")
        try:
            session.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        finally:
            session.close()
        return self._server.url(name)

    @cached_property
    def _template(self) -> str:
        name = "template_of_index"
        self._server.create_databases(name)
        prepare_index(self._server.url(name), str(self._template_data))
        return name
