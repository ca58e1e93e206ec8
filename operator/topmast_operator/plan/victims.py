"""Which pods of a Deployment go when it shrinks, in the order in which the ReplicaSet controller will agree.

The controller takes unscheduled, pending and not-ready pods first whatever their cost, then the lowest
pod-deletion-cost; the operator names the same ones, so that exactly these are announced to the gateways.
"""

from collections.abc import Sequence

from topmast_operator.api.facts import PodFacts


def choose_victims(pods: Sequence[PodFacts], count: int) -> tuple[PodFacts, ...]:
    """The `count` pods that lose least: not running, then already announced, then least work, least KV, youngest."""
    return tuple(sorted(pods, key=_worth)[: max(0, count)])


def _worth(pod: PodFacts) -> tuple[bool, bool, bool, bool, int, int, float, str]:
    engine = pod.engine
    return (
        pod.node is not None,
        pod.phase == "Running",
        pod.ready,
        not pod.draining,
        engine.running + engine.waiting if engine else 0,
        engine.kv_tokens_used if engine else 0,
        -pod.created_unix_s,
        pod.name,
    )
