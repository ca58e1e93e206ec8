"""Which pods of a Deployment go when it shrinks: those that lose least, each rule before the next."""

from __future__ import annotations

from typing import Any

import pytest
from operatorlab.facts import NOW, engine, model, pod

from topmast_operator.plan.victims import choose_victims

OF = model()
GOES_FIRST: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("without a node", {"node": None}, {}),
    ("not running", {"phase": "Pending"}, {}),
    ("not ready", {"ready": False}, {}),
    ("announced", {"draining": True}, {}),
    ("on the node of the check", {"node": "checked"}, {}),
    ("less work", {"engine": engine(running=1)}, {"engine": engine(running=2)}),
    ("less that waits", {"engine": engine(running=1)}, {"engine": engine(running=1, waiting=1)}),
    ("less KV", {"engine": engine(kv_tokens_used=1)}, {"engine": engine(kv_tokens_used=2)}),
    ("younger", {"created_unix_s": NOW - 1}, {"created_unix_s": NOW - 2}),
)


@pytest.mark.parametrize("rule", range(len(GOES_FIRST)), ids=[rule[0] for rule in GOES_FIRST])
def test_an_earlier_rule_decides_before_the_later_ones(rule: int) -> None:
    _, first, second = GOES_FIRST[rule]
    for _, loses, keeps in GOES_FIRST[rule + 1 :]:
        # By the later rule alone it would be the other way round.
        goes, stays = pod(OF, 0, **{**keeps, **first}), pod(OF, 1, **{**loses, **second})
        assert choose_victims([stays, goes], 1, "checked") == (goes,)
    goes, stays = pod(OF, 1, **first), pod(OF, 0, **second)
    assert choose_victims([stays, goes], 1, "checked") == (goes,)


def test_as_many_as_are_asked_for_and_by_name_among_equals() -> None:
    pods = [pod(OF, number) for number in (2, 0, 1)]
    assert [item.name for item in choose_victims(pods, 2)] == sorted(item.name for item in pods)[:2]
    assert choose_victims(pods, 0) == () and choose_victims(pods, -1) == () and len(choose_victims(pods, 9)) == 3


def test_without_a_check_no_node_is_preferred() -> None:
    pods = [pod(OF, 0, node="a"), pod(OF, 1, node="b")]
    assert choose_victims(pods, 1) == (pods[0],) and choose_victims(pods, 1, "b") == (pods[1],)
