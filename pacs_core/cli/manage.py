"""peer, hold and flow: what an administrator enters, starts and looks after."""

import getpass
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pacs_core.cli import output
from pacs_core.cli.errors import Failed
from pacs_core.dicom.sop_classes import transfer_syntax_named
from pacs_core.errors import ConfigurationError
from pacs_core.model import UID, AETitle, Hold, Peer, Permission, parse_uid
from pacs_core.settings import check_ae_title, load_settings
from pacs_core.supervisor.flow_api import FlowApi, FlowRun
from pacs_core.supervisor.flow_schedules import by_cron, by_interval, once
from pacs_core.supervisor.flow_statistics import FlowStatistics
from pacs_core.wiring import index


def peer_add(
    home: Path | None, ae_title: str, host: str, port: int, *, tls: bool, may: Sequence[Permission], transfer_syntaxes: Sequence[str]
) -> None:
    """Enter a peer, or change it."""
    try:
        title = AETitle(check_ae_title(ae_title))
    except ValueError as exc:
        raise ConfigurationError(f"{ae_title!r}: {exc}") from exc
    peer = Peer(title, host, port, tls, tuple(dict.fromkeys(may)), tuple(map(transfer_syntax_named, transfer_syntaxes)))
    index.peers(load_settings(home)).put(peer)
    output.line(f"{title} is at {host}:{port}{', over TLS' if tls else ''}")


def peer_list(home: Path | None, form: str) -> None:
    """Every peer."""
    peers = index.peers(load_settings(home)).all()
    rows = ((p.ae_title, p.host, p.port, p.tls, ", ".join(p.permissions), ", ".join(p.transfer_syntaxes)) for p in peers)
    output.print_rows(("ae_title", "host", "port", "tls", "may", "transfer_syntaxes"), rows, form)


def peer_remove(home: Path | None, ae_title: str) -> None:
    """Forget a peer. ConfigurationError if there is none of that title."""
    if not index.peers(load_settings(home)).remove(ae_title):
        raise ConfigurationError(f"{ae_title}: there is no such peer; `pacs peer list` shows them")


def hold_add(home: Path | None, study: str, reason: str, until: datetime | None) -> None:
    """Place a hold, or change it."""
    hold = Hold(parse_uid(study, name="StudyInstanceUID"), reason, getpass.getuser(), until=until and until.astimezone(UTC))
    index.holds(load_settings(home)).place(hold)
    output.line(f"study {study} is on hold{f' until {hold.until:%Y-%m-%d %H:%M} UTC' if hold.until else ''}")


def hold_list(home: Path | None, form: str) -> None:
    """Every hold."""
    rows = [(h.StudyInstanceUID, h.reason, h.placed_by, h.placed_at, h.until) for h in index.holds(load_settings(home)).all()]
    output.print_rows(("StudyInstanceUID", "reason", "placed_by", "placed_at", "until"), rows, form)


def hold_release(home: Path | None, study: str) -> None:
    """End a hold. ConfigurationError if there is none."""
    if not index.holds(load_settings(home)).release(UID(study)):
        raise ConfigurationError(f"{study}: there is no hold on this study; `pacs hold list` shows them")


def flow_list(home: Path | None, form: str) -> None:
    """Every deployed flow."""
    with _api(home) as api:
        rows = [(d.name, "paused" if d.paused else "active", ", ".join(d.schedules), d.description) for d in api.deployments()]
    output.print_rows(("flow", "schedule is", "schedule", "description"), rows, form)


def flow_run(home: Path | None, name: str, parameters: Sequence[str], *, wait: bool) -> None:
    """Start a run and follow it. Failed unless it completes."""
    with _api(home) as api:
        run = api.run(name, dict(_parameter(text) for text in parameters))
        output.line(f"run {run.name} ({run.id})")
        if not wait:
            return
        run = api.follow(run.id, changed=_tell)
    if not run.succeeded:
        raise Failed


def _tell(run: FlowRun) -> None:
    output.line(f"{run.name}: {run.state_name}{f' — {run.message}' if run.message else ''}")


def _parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigurationError(f"--param {text}: write it as name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def flow_pause(home: Path | None, name: str, *, paused: bool) -> None:
    """Pause or resume a flow's schedule."""
    with _api(home) as api:
        deployment = api.pause(name) if paused else api.resume(name)
    output.line(f"{deployment.name} is {'paused' if deployment.paused else 'active'}")


def flow_history(home: Path | None, name: str | None, limit: int, form: str) -> None:
    """Past runs, newest first."""
    with _api(home) as api:
        runs = api.history(name, limit=limit)
    rows = [(r.deployment, r.name, r.state_name, r.started, r.ended, r.message, r.id) for r in runs]
    output.print_rows(("flow", "run", "state", "started", "ended", "message", "id"), rows, form)


def flow_stats(home: Path | None, name: str | None, days: int, form: str) -> None:
    """What the runs of the last days came to."""
    with _api(home) as api:
        found = [FlowStatistics.of(flow, runs) for flow, runs in api.runs_since(datetime.now(UTC) - timedelta(days=days), name).items()]
    output.print_rows([field.name for field in fields(FlowStatistics)], (astuple(each) for each in found), form)


def flow_schedule(home: Path | None, name: str, schedule: Mapping[str, Any] | None) -> None:
    """Give a flow one schedule, or none."""
    with _api(home) as api:
        deployment = api.reschedule(name, schedule)
    when = ", ".join(deployment.schedules) or "only when it is asked to"
    output.line(f"{deployment.name} runs {when}{', once it is resumed: it is paused' if deployment.paused else ''}")


def schedule_of(cron: str | None, interval: str | None, moment: str | None, timezone: str, *, none: bool) -> Mapping[str, Any] | None:
    """The schedule that the options describe; exactly one of them is given."""
    if [cron, interval, moment, none or None].count(None) != 3:
        raise ConfigurationError("give one of --cron, --interval, --once and --none")
    if cron is not None:
        return by_cron(cron, timezone)
    if interval is not None:
        return by_interval(interval)
    return None if moment is None else once(moment, timezone)


def flow_cancel(home: Path | None, run: str) -> None:
    """Ask a run to end."""
    with _api(home) as api:
        _tell(api.cancel(run))


def _api(home: Path | None) -> FlowApi:
    return FlowApi(load_settings(home).flow_api_url)
