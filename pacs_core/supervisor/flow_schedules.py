"""When a flow runs by itself: a cron line, an interval or one moment, as people write it and as Prefect's API takes it."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pacs_core.errors import ConfigurationError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHORTEST = 10  # seconds; a run costs one to start
_ONCE = re.compile(r"DTSTART:(\d{8}T\d{6})Z\nRRULE:FREQ=DAILY;COUNT=1")


def by_cron(line: str, timezone: str) -> Mapping[str, Any]:
    """A cron line of five fields in a time zone. Prefect checks the fields themselves."""
    if len(line.split()) != 5:
        raise ConfigurationError(f"--cron {line!r}: five fields: minute, hour, day of month, month, day of week, such as '30 2 * * *'")
    return {"cron": line, "timezone": _zone(timezone).key}


def by_interval(text: str) -> Mapping[str, Any]:
    """Every so often, counted from now: `90s`, `15m`, `6h`, `1d`."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if seconds < _SHORTEST:
        raise ConfigurationError(f"--interval {text!r}: a whole number and s, m, h or d, {_SHORTEST}s at least, such as 15m")
    return {"interval": seconds, "anchor_date": datetime.now(UTC).isoformat(), "timezone": "UTC"}


def once(text: str, timezone: str) -> Mapping[str, Any]:
    """One moment that is still to come, in ISO 8601; without an offset it is meant in the time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigurationError(f"--once {text!r}: a date and time such as 2027-01-31T22:00") from exc
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=_zone(timezone))
    if moment <= datetime.now(UTC):
        raise ConfigurationError(f"--once {text!r}: that is past; `pacs flow run` starts a run now")
    return {"rrule": f"DTSTART:{moment.astimezone(UTC):%Y%m%dT%H%M%S}Z\nRRULE:FREQ=DAILY;COUNT=1", "timezone": "UTC"}


def described(schedule: Mapping[str, Any]) -> str:
    """A schedule of Prefect's, also one that was made in its UI, for people."""
    if cron := schedule.get("cron"):
        return f"{cron} {schedule.get('timezone') or 'UTC'}"
    if interval := schedule.get("interval"):
        return f"every {interval:g} s"
    rule = str(schedule.get("rrule", ""))
    single = _ONCE.fullmatch(rule)
    return f"once at {datetime.strptime(single[1], '%Y%m%dT%H%M%S').replace(tzinfo=UTC):%Y-%m-%d %H:%M:%S} UTC" if single else rule


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:  # also a path, or a folder of the data base
        raise ConfigurationError(f"--timezone {name!r}: there is no such time zone; a name such as Europe/Berlin, or UTC") from exc
