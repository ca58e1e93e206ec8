"""Ways to choose a pod, ours and those it is compared with. All see the same loads; ours is the gateway's own code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.endpoint_picker import DEFAULT_RULE, Choice, EndpointPicker, PickerRule, home_key, ranking
from topmast_gateway.routing.model_table import Model, Pod, Route


class Policy(Protocol):
    """Chooses for one gateway."""

    def choose(self, pods: Sequence[Pod], ask: CompletionRequest) -> Choice:
        """One of `pods`."""


class RoundRobin:
    """Each pod in turn."""

    def __init__(self, loads: EndpointLoads) -> None:
        self._turn = 0

    def choose(self, pods: Sequence[Pod], ask: CompletionRequest) -> Choice:
        self._turn += 1
        return Choice(pods[self._turn % len(pods)], "least_load")


class LeastLoad:
    """The fewest tokens in flight."""

    def __init__(self, loads: EndpointLoads) -> None:
        self._loads = loads

    def choose(self, pods: Sequence[Pod], ask: CompletionRequest) -> Choice:
        work = self._loads.in_flight_tokens(pods)
        least = min(range(len(pods)), key=lambda place: (work[place], self._loads.idleness(pods[place])))
        return Choice(pods[least], "least_load")


class Chwbl:
    """Plain consistent hashing with bounded load over the prompt's opening: the first pod in the hash's order that
    has room. It remembers nothing.
    """

    def __init__(self, loads: EndpointLoads, bound: float = 1.25) -> None:
        self._loads = loads
        self._bound = bound

    def choose(self, pods: Sequence[Pod], ask: CompletionRequest) -> Choice:
        work = self._loads.in_flight_tokens(pods)
        limit = self._bound * (sum(work) + ask.tokens) / len(pods)
        for place in ranking(home_key(ask.chain, 0)[0], pods):
            if work[place] + ask.tokens <= max(limit, ask.tokens):
                return Choice(pods[place], "hash")
        return Choice(min(zip(work, pods, strict=True), key=lambda pair: pair[0])[1], "least_load")


class Ours:
    """The gateway's."""

    def __init__(self, loads: EndpointLoads, rule: PickerRule = DEFAULT_RULE) -> None:
        self._picker = EndpointPicker(loads, rule)

    def choose(self, pods: Sequence[Pod], ask: CompletionRequest) -> Choice:
        return self._picker.choose(Route(Model("bench", "model"), tuple(pods)), pods, ask)


POLICIES: Final[dict[str, Callable[[EndpointLoads], Policy]]] = {
    "round robin": RoundRobin,
    "least load": LeastLoad,
    "plain CHWBL": Chwbl,
    "topmast": Ours,
}
# What was tried beside it, one change each.
VARIANTS: Final[dict[str, Callable[[EndpointLoads], Policy]]] = {
    "waiting tokens count in full": partial(Ours, rule=PickerRule(waiting=1.0)),
    "waiting tokens count a tenth": partial(Ours, rule=PickerRule(waiting=0.1)),
    "bound of 1.25": partial(Ours, rule=PickerRule(bound=1.25)),
    "no bound": partial(Ours, rule=PickerRule(bound=math.inf)),
    "last minute not counted": partial(Ours, rule=PickerRule(steady=0.0)),
    "no hash": partial(Ours, rule=PickerRule(trust=0.0)),
    "hash not trusted at first": partial(Ours, rule=PickerRule(start=0.0)),
    "hash trusted a quarter at first": partial(Ours, rule=PickerRule(start=0.25)),
    "hash trusted four times more": partial(Ours, rule=PickerRule(trust=16.0)),
    "plain CHWBL, bound of 2": partial(Chwbl, bound=2.0),
}
