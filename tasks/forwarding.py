"""The step of the `forward` flow."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

from prefect import task

from pacs_core.dimse.forwarding import Followed
from pacs_core.errors import ConfigurationError
from pacs_core.index.forwards import Arrival, RuleState, arrived
from pacs_core.index.sql import InvalidSQL, SQLSession
from pacs_core.settings import Settings, load_settings
from pacs_core.wiring import exchange, index
from pacs_core.workflow.forward import Rule
from tasks.connections import connections
from tasks.operation import catch_up
from tasks.policy import RETRIES

_BUSY = "another run works on it"


@task(task_run_name="{name}", **RETRIES)
def follow_rule(name: str, *, dry_run: bool) -> Followed:
    """Enter what has arrived for a rule and send some of it; a dry run only counts what has arrived and is due."""
    settings = load_settings()
    rule = _rule(settings, name)
    with closing(index.forwards(settings)) as ledger, index.sql_session(settings) as session, ledger.locked(name) as mine:
        if not mine:
            return Followed(name, rule.peer, reason=_BUSY)
        now = datetime.now(UTC)
        catch_up(settings)
        find = partial(_arrived, session, rule)
        try:
            if dry_run:
                state = ledger.state(name)
                return Followed(name, rule.peer, entered=len(find(state)) if state else 0)
            with exchange.forwarder(settings, ledger, connections(settings).locations) as forwarder:
                return forwarder.follow(rule, index.peer_named(settings, rule.peer), find, now)
        except InvalidSQL as exc:
            return Followed(name, rule.peer, reason=str(exc), is_wrong=True)


def rule_names(name: str) -> Sequence[str]:
    """The rules of the settings, or with a name that one. ConfigurationError if there is none."""
    names = [rule.name for rule in load_settings().forwards if name in ("", rule.name)]
    if name and not names:
        raise ConfigurationError(f"forwards: there is no rule {name}")
    return names


def _rule(settings: Settings, name: str) -> Rule:
    for rule in exchange.forward_rules(settings):
        if rule.name == name:
            return rule
    raise ConfigurationError(f"forwards: there is no rule {name}")


def _arrived(session: SQLSession, rule: Rule, state: RuleState) -> Sequence[Arrival]:
    return arrived(session, rule.name, state, modalities=rule.modalities, sources=rule.sources, condition=rule.condition)
