"""Which pods of a Deployment go when it shrinks, in the order in which the ReplicaSet controller will agree.

The controller takes unscheduled, pending and not-ready pods first whatever their cost, then the lowest
pod-deletion-cost; the operator names the same ones, so that exactly these are announced to the gateways.
"""

from collections.abc import Sequence

from topmast_operator.api.facts import PodFacts


def choose_victims(pods: Sequence[PodFacts], count: int, node: str | None = None) -> tuple[PodFacts, ...]:
    """The `count` pods that lose least: not running, already announced, on `node`, least work, least KV, youngest.

    `node` is where a check pod has proven that the next revision can run.
    """
    return tuple(sorted(pods, key=lambda pod: _worth(pod, node))[: max(0, count)])


def _worth(pod: PodFacts, node: str | None) -> tuple[bool, bool, bool, bool, bool, int, int, float, str]:
    engine = pod.engine
    return (
        pod.node is not None,
        pod.phase == "Running",
        pod.ready,
        not pod.draining,
        node is not None and pod.node != node,
        engine.running + engine.waiting if engine else 0,
        engine.kv_tokens_used if engine else 0,
        -pod.created_unix_s,
        pod.name,
    )
