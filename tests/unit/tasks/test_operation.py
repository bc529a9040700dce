"""What all plans of operations on studies go by."""

import pytest

from pacs_core.errors import ConfigurationError
from pacs_core.lifecycle.rules import RetentionRule, Selection
from tasks.operation import rules_named

RULES = [RetentionRule(name, (), Selection()) for name in ("ten-years", "tests")]


def test_a_rule_is_chosen_by_its_name_and_without_a_name_all_are() -> None:
    assert rules_named("tests", RULES, table="retentions") == RULES[1:]
    assert rules_named("", RULES, table="retentions") == RULES
    assert rules_named("", RULES[:0], table="retentions") == []


def test_a_rule_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigurationError, match="retentions: there is no rule old"):
        rules_named("old", RULES, table="retentions")
