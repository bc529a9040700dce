"""Structured logs on standard error, one event per line, the standard library's loggers included."""

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Literal, TextIO

import structlog

Format = Literal["logfmt", "json"]

# More than these say at `info` helps only whoever debugs them.
_QUIETER: Mapping[str, int] = {
    "pynetdicom": logging.WARNING,
    "pydicom": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "botocore": logging.WARNING,
    "azure": logging.WARNING,
}
_FIRST_KEYS = ("timestamp", "level", "event")

Processor = Callable[[Any, str, MutableMapping[str, Any]], Mapping[str, Any] | str | bytes | bytearray | tuple[Any, ...]]


def configure(level: str = "info", *, form: Format = "logfmt", stream: TextIO | None = None) -> None:
    """Set logging up for this process. May be repeated; the last call counts.

    Args:
        level: the least severe events that are written: debug, info, warning or error.
        form: how a line looks: `key=value` pairs or a JSON object.
        stream: where to; standard error unless told.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: Sequence[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(form)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    for name, least in _QUIETER.items():
        logging.getLogger(name).setLevel(max(least, threshold) if threshold > logging.DEBUG else threshold)


def _renderer(form: Format) -> Processor:
    if form == "json":
        return structlog.processors.JSONRenderer()
    return structlog.processors.LogfmtRenderer(key_order=_FIRST_KEYS, drop_missing=True, bool_as_flag=False)
