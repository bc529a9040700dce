"""The interactive console of `pacs sql`, with history and completion."""

from collections.abc import Callable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from pacs_core.cli import output
from pacs_core.errors import ConfigurationError, PacsError

_HELP = r"""SQL ends with a semicolon. \d: tables and columns. \f table|csv|json: format. \q or Ctrl-D: leave."""
_KEYWORDS = (
    *("SELECT", "DISTINCT", "FROM", "JOIN", "LEFT JOIN", "USING", "ON", "WHERE", "AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN"),
    *("GROUP BY", "HAVING", "ORDER BY", "DESC", "LIMIT", "COUNT", "SUM", "AVG", "MIN", "MAX", "DATE"),
)
_DESCRIBE = """
SELECT table_name, string_agg(column_name, ', ' ORDER BY column_index) AS columns
FROM duckdb_columns() WHERE NOT internal GROUP BY ALL ORDER BY 1
"""


class Console:
    """Reads statements until they end with a semicolon; shows errors and goes on.

    Args:
        execute: runs a statement and prints its rows in a format.
        names: what is completed beside the keywords of SQL.
        form: the format to begin with.
        history: a file.
    """

    def __init__(self, execute: Callable[[str, str], None], names: Sequence[str], form: str, history: Path) -> None:
        self._execute = execute
        self._form = form
        words = [*names, *_KEYWORDS]
        self._prompt: PromptSession[str] = PromptSession(
            lexer=PygmentsLexer(SqlLexer),
            completer=WordCompleter(words, ignore_case=True),
            complete_while_typing=False,
            history=FileHistory(str(history)),
        )

    def run(self) -> None:
        """Until the user leaves."""
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
            self._execute(_DESCRIBE, self._form)
        elif statement.startswith("\\"):
            output.line(_HELP)
        elif statement:
            self._execute(statement, self._form)
