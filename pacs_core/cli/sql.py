"""`pacs sql`: one query, or an interactive console with history and completion. Read-only."""

import sys
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from pacs_core import wiring
from pacs_core.cli import output
from pacs_core.errors import ConfigurationError, PacsError
from pacs_core.index.sql import SQLSession
from pacs_core.settings import load_settings

_HELP = r"""SQL ends with a semicolon. \d: tables and columns. \f table|csv|json: format. \q or Ctrl-D: leave."""


_PATIENCE = 5.0  # seconds


def run(home: Path | None, command: str | None, form: str) -> None:
    """Run one query (-c, or standard input where that is no terminal), else the console."""
    settings = load_settings(home)
    with wiring.sql_session(settings) as session:
        if not wiring.catch_up(settings, patience=_PATIENCE):
            sys.stderr.write("pacs: some of what was acknowledged is not in the index yet\n")
        if command is not None:
            _execute(session, command, form)
        elif not sys.stdin.isatty():
            _execute(session, sys.stdin.read(), form)
        else:
            _Console(session, form, settings.home / "sql_history").run()


def _execute(session: SQLSession, query: str, form: str) -> None:
    result = session.run(query)
    if form == "parquet":
        output.write_parquet(result.table())
    else:
        output.print_rows(result.columns, result.rows(), form)


def _names(session: SQLSession) -> list[str]:
    """Tables and columns, for completion."""
    return [str(name) for row in session.run(_NAMES).rows() for name in row]


class _Console:
    """Reads statements until they end with a semicolon; shows errors and goes on."""

    def __init__(self, session: SQLSession, form: str, history: Path) -> None:
        self._session = session
        self._form = form
        words = [*_names(session), *_KEYWORDS]
        self._prompt: PromptSession[str] = PromptSession(
            lexer=PygmentsLexer(SqlLexer),
            completer=WordCompleter(words, ignore_case=True),
            complete_while_typing=False,
            history=FileHistory(str(history)),
        )

    def run(self) -> None:
        output.line(_HELP)
        while True:
            try:
                statement = self._read()
            except EOFError:
                return
            except KeyboardInterrupt:
                continue
            if statement in ("\\q", "exit", "quit"):
                return
            try:
                self._handle(statement)
            except PacsError as exc:
                output.line(f"error: {exc}")

    def _read(self) -> str:
        lines: list[str] = []
        while True:
            lines.append(self._prompt.prompt("    > " if lines else "pacs> "))
            text = "\n".join(lines).strip()
            if not text or text.startswith("\\") or text in ("exit", "quit") or text.endswith(";"):
                return text

    def _handle(self, statement: str) -> None:
        if statement.startswith("\\f"):
            form = statement[2:].strip()
            if form not in ("table", "csv", "json"):
                raise ConfigurationError(f"format {form!r}; here it is table, csv or json")
            self._form = form
        elif statement == "\\d":
            _execute(self._session, _DESCRIBE, self._form)
        elif statement.startswith("\\"):
            output.line(_HELP)
        elif statement:
            _execute(self._session, statement, self._form)


_KEYWORDS = (
    *("SELECT", "DISTINCT", "FROM", "JOIN", "LEFT JOIN", "USING", "ON", "WHERE", "AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN"),
    *("GROUP BY", "HAVING", "ORDER BY", "DESC", "LIMIT", "COUNT", "SUM", "AVG", "MIN", "MAX", "DATE"),
)
_DESCRIBE = """
SELECT table_name, string_agg(column_name, ', ' ORDER BY column_index) AS columns
FROM duckdb_columns() WHERE NOT internal GROUP BY ALL ORDER BY 1
"""
_NAMES = """
SELECT table_name FROM duckdb_columns() WHERE NOT internal
UNION SELECT column_name FROM duckdb_columns() WHERE NOT internal
"""
