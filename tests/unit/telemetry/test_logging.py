"""One event per line, from structlog and the standard library alike."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from pacs_core.telemetry.logging import Format, configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in ("pynetdicom", "httpx", "uvicorn.access")}
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)
    structlog.reset_defaults()


def logged(level: str = "info", form: Format = "logfmt") -> io.StringIO:
    stream = io.StringIO()
    configure(level, form=form, stream=stream)
    return stream


def test_an_event_is_one_line_of_pairs() -> None:
    stream = logged()
    structlog.get_logger("pacs_core.x").info("instance_stored", SOPInstanceUID="1.2.3", size=7)
    (line,) = stream.getvalue().splitlines()
    assert "level=info event=instance_stored" in line
    assert "SOPInstanceUID=1.2.3" in line
    assert line.startswith("timestamp=")


def test_the_standard_library_logs_the_same_way() -> None:
    stream = logged(form="json")
    logging.getLogger("a.library").warning("cannot bind %s", "x")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["level"]) == ("cannot bind x", "warning")


def test_an_exception_stays_on_the_line_of_its_event() -> None:
    stream = logged()
    try:
        raise ValueError("two\nlines")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert len(stream.getvalue().splitlines()) == 1
    assert "ValueError" in stream.getvalue()


def test_only_what_is_severe_enough_is_written() -> None:
    stream = logged("warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("any").info("quiet")
    structlog.get_logger().warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_chatty_libraries_speak_only_when_debugging() -> None:
    stream = logged("info")
    logging.getLogger("pynetdicom.acse").info("chatter")
    assert stream.getvalue() == ""
    stream = logged("debug")
    logging.getLogger("pynetdicom.acse").info("chatter")
    assert "chatter" in stream.getvalue()


def test_configuring_again_replaces_what_was_configured() -> None:
    first, second = logged(), logged()
    structlog.get_logger().info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
