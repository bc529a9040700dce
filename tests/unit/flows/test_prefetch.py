"""What a prefetch says about its outcome, and whom it tells."""

from typing import Any

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun

from flows.prefetch import Prefetched, prefetch, tell_outcome


def test_the_outcome_is_one_sentence_that_names_troubles_only_where_there_are_any() -> None:
    done = Prefetched(patients=2, held=1, fetched=3, instances=9)
    assert done.sentence == "3 studies with 9 instances were fetched; 2 patients, 1 priors were here"
    troubled = done.model_copy(update={"failed_attempts": 1, "sources_away": 2})
    assert troubled.sentence.endswith("; 1 attempts failed; 2 sources are away")


def test_a_users_hooks_come_beside_ours() -> None:
    def mine(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
        """Somebody's own."""

    theirs = prefetch.with_options(on_completion=[*prefetch.on_completion_hooks, mine], on_failure=[*prefetch.on_failure_hooks, mine])
    assert theirs.on_completion_hooks == theirs.on_failure_hooks == [tell_outcome, mine]
