"""Forward: what has arrived is sent on to peers, by rules."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from prefect import State, flow
from prefect.states import Completed, Failed
from pydantic import BaseModel, Field

from flows.reporting import RunRecord, gathered, publish_summary, publish_table
from pacs_core.dimse.forwarding import Followed
from tasks.forwarding import follow_rule, rule_names
from tasks.policy import waiting_task_runner


class Forwarded(BaseModel):
    """What a run did, for the record."""

    rules: int = 0
    entered: int = 0
    sent: int = 0
    failed: int = 0  # attempts; they are repeated
    given_up: int = 0
    delayed: int = 0  # rules whose peer is away, or that another run works on
    wrong: int = 0  # rules that a person has to see to
    broken: int = 0  # steps that broke off

    @classmethod
    def of(cls, results: Sequence[Followed], broken: int) -> "Forwarded":
        """The sum."""
        figures = {name: sum(getattr(each, name) for each in results) for name in ("entered", "sent", "failed", "given_up")}
        wrong = {each.rule for each in results if each.is_wrong}
        delayed = {each.rule for each in results if each.reason} - wrong
        return cls(rules=len({each.rule for each in results}), delayed=len(delayed), wrong=len(wrong), broken=broken, **figures)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is for a person to see to: what is only delayed is not."""
        return not (self.given_up or self.wrong or self.broken)

    @property
    def sentence(self) -> str:
        """The outcome as the state message says it."""
        troubles = {
            "could not be sent and are tried again": self.failed,
            "were given up": self.given_up,
            "rules have to wait": self.delayed,
            "rules are wrong": self.wrong,
            "steps broke off": self.broken,
        }
        told = f"{self.sent} instances sent by {self.rules} rules, {self.entered} new"
        return "; ".join([told, *(f"{count} {what}" for what, count in troubles.items() if count)])


@flow(name="forward", task_runner=waiting_task_runner(), validate_parameters=True)
def forward(rule: Annotated[str, Field(max_length=40)] = "", dry_run: bool = False) -> State[Any]:
    """Send on to peers what has arrived since the last run, by the rules `[[forwards]]` of the settings, and what could not be sent before.

    Each instance is sent once by each rule; what the peer has acknowledged is never sent again. A peer that is away delays its own
    rules only. May be run again at any time; a run that was killed is simply run again.

    Args:
        rule: Follow only the rule of this name.
        dry_run: Only look: how many instances have arrived for each rule and would be sent. A new rule does not begin.
    """
    names = rule_names(rule)
    if not names:
        return Completed(message="there is no rule: see [[forwards]] in the documentation of the settings")
    with RunRecord("forward", {"rule": rule, "dry_run": dry_run}) as record:
        results, broken = _followed(names, dry_run=dry_run)
        result = Forwarded.of(results, broken)
        sentence = f"dry run: {result.entered} instances would be sent by {result.rules} rules" if dry_run else result.sentence
        publish_table("forward-result", sentence, [asdict(each) for each in results])
        publish_summary("forward-summary", "Forward", sentence, result.model_dump())
        record.finish("planned" if dry_run else "completed" if result.is_whole else "failed", result.model_dump())
    return Completed(message=sentence) if result.is_whole else Failed(message=sentence)


def _followed(names: Sequence[str], *, dry_run: bool) -> tuple[list[Followed], int]:
    """Every rule side by side, those again that have more to send; what came of each step, and how many broke off."""
    results: list[Followed] = []
    broken = 0
    while names:
        done, lost = gathered("forward-progress", [follow_rule.submit(name, dry_run=dry_run) for name in names])
        results += done
        broken += lost
        names = [each.rule for each in done if each.is_left]
    return results, broken
