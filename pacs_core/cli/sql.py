"""`pacs sql`: one query, or an interactive console. Read-only."""

import sys
from functools import partial
from pathlib import Path

from pacs_core.cli import output
from pacs_core.index.sql import SQLSession
from pacs_core.settings import load_settings
from pacs_core.wiring import index, intake

_PATIENCE = 5.0  # seconds


def run(home: Path | None, command: str | None, form: str) -> None:
    """Run one query (-c, or standard input where that is no terminal), else the console."""
    settings = load_settings(home)
    with index.sql_session(settings) as session:
        if not intake.catch_up(settings, patience=_PATIENCE):
            sys.stderr.write("pacs: some of what was acknowledged is not in the index yet\n")
        if command is not None:
            _execute(session, command, form)
        elif not sys.stdin.isatty():
            _execute(session, sys.stdin.read(), form)
        else:
            from pacs_core.cli.console import Console  # what it is made of takes longer to import than a query to answer

            Console(partial(_execute, session), _names(session), form, settings.home / "sql_history").run()


def _execute(session: SQLSession, query: str, form: str) -> None:
    result = session.run(query)
    if form == "parquet":
        output.write_parquet(result.table())
    else:
        output.print_rows(result.columns, result.rows(), form)


def _names(session: SQLSession) -> list[str]:
    """Tables and columns, for completion."""
    return [str(name) for row in session.run(_NAMES).rows() for name in row]


_NAMES = """
SELECT table_name FROM duckdb_columns() WHERE NOT internal
UNION SELECT column_name FROM duckdb_columns() WHERE NOT internal
"""
