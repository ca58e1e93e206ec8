"""Which pod gets the next request, and why: where its beginning is cached, unless too much else waits there.

Owns the rule and its constants, which bench/routing.py measures; docs/reference/routing-measurements.md has the
figures. It keeps no connection and knows no failures: the caller brings the pods that may be picked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal, Protocol

import msgspec

from topmast_gateway.routing.endpoint_load import EndpointLoads, InFlight
from topmast_gateway.routing.model_table import Pod, Route
from topmast_gateway.routing.prefix_hash import PrefixChain
from topmast_gateway.routing.prefix_index import PrefixIndex

Reason = Literal["only", "affinity", "prefix", "hash", "least_load"]

_OPENING_TOKENS = 1024  # of a prompt without turns
_MEMORY = 0.01  # weight of the newest request in the share that caches have saved lately


@dataclass(frozen=True, slots=True)
class PickerRule:
    """The constants of the choice. The defaults are measured; others are for measuring.

    `waiting`: what a token in flight at a pod weighs against one that is cached there. A hit saves work for everybody
    behind it, too: a request goes to its cache while at most four times as many tokens are ahead of it as that saves.
    `bound`: but never to a pod with more in flight than this times the mean, and itself, unless all have.
    `trust`: in the hash of a conversation, as a multiple of the share of a prompt that caches have saved lately.
    `start`: that share before anything is known. Gateways that begin without trust put the first conversations where
    the others will not look for them, and lose their hits for as long as those last.
    `steady`: what a token of the last minute weighs, where some pod has some of the prompt. At light load nothing is in
    flight, and without it everybody with the same system prompt would be sent to the one pod that saw it first.
    """

    waiting: float = 0.25
    bound: float = 2.0
    trust: float = 4.0
    start: float = 0.1
    steady: float = 0.04


class Prompt(Protocol):
    """What is looked at of a request. `tokens` are of prompt and answer, by estimate; `session` may be empty."""

    @property
    def chain(self) -> PrefixChain: ...

    @property
    def session(self) -> bytes: ...

    @property
    def tokens(self) -> int: ...


class Choice(msgspec.Struct, frozen=True):
    """A pod, why it, and how much of the request's chain it should have: `matched` of `blocks` blocks."""

    pod: Pod
    reason: Reason
    matched: int = 0
    blocks: int = 0

    def header(self) -> tuple[bytes, bytes]:
        """For a caller who debugs."""
        text = f"{self.pod.name}; reason={self.reason}; blocks={self.matched}/{self.blocks}"
        return b"x-topmast-route", text.encode()


DEFAULT_RULE: Final = PickerRule()


class EndpointPicker:
    """Chooses for one gateway. What several of them share is the hash and the pods' reports, nothing else."""

    def __init__(self, loads: EndpointLoads, rule: PickerRule = DEFAULT_RULE) -> None:
        self._loads = loads
        self._rule = rule
        self._prefix_index = PrefixIndex()
        self._savings: dict[str, tuple[float, float]] = {}  # by model: tokens saved by choosing well, tokens asked

    def choose(self, route: Route, pods: Sequence[Pod], prompt: Prompt) -> Choice:
        """One of `pods`, of which there is at least one."""
        if route.model.weights:
            pods = of_revision(pods, dict(route.model.weights), prompt.session or prompt.chain.anchor)
        choice = self._choose(route.model.key, pods, prompt)
        room = self._loads.kv_tokens(choice.pod) // prompt.chain.block_tokens
        self._prefix_index.sent(choice.pod.uid, choice.pod.ready_since, prompt.chain.blocks, room)
        return choice

    def sending(self, choice: Choice, prompt: Prompt) -> InFlight:
        """Count what the pod has to do for this request while the block of what it gives runs: what it has cached costs
        it nothing.
        """
        cached = choice.matched * prompt.chain.block_tokens
        to_compute = max(0, prompt.chain.tokens - cached)
        return self._loads.sending(choice.pod, max(1, prompt.tokens - cached), to_compute)

    def was_full(self, pod: Pod) -> None:
        """The pod refused a request for want of room."""
        self._loads.was_full(pod)

    def forget(self, present: set[str], models: set[str]) -> None:
        """Only these pods and models are left."""
        self._prefix_index.forget(present)
        self._savings = {model: seen for model, seen in self._savings.items() if model in models}

    def _choose(self, model: str, pods: Sequence[Pod], prompt: Prompt) -> Choice:
        chain, total = prompt.chain, len(prompt.chain.blocks)
        known = [self._prefix_index.depth(pod.uid, pod.ready_since, chain.blocks) for pod in pods]
        if len(pods) == 1:
            return Choice(pods[0], "only", known[0], total)
        work, recent_tokens = self._loads.in_flight_tokens(pods), self._loads.recent_tokens(pods)
        limit = self._rule.bound * (sum(work) + prompt.tokens) / len(pods) + prompt.tokens
        shared = sorted(known)[(len(pods) - 1) // 2]
        home, opening = (prompt.session, chain.opening) if prompt.session else home_key(chain, shared)
        order = ranking(home, pods)
        ranks = {place: rank for rank, place in enumerate(order)}
        if prompt.session:
            for place in order:
                if work[place] <= limit:
                    return Choice(pods[place], "affinity", known[place], total)
        least, most = min(known), max(known)
        steady = self._rule.steady if most else 0.0
        saved = [depth * chain.block_tokens for depth in known]
        trust = self._trust(model, chain, most - least)
        if home and most <= opening:  # nobody is known to have this conversation, but the hash's pod may
            saved[order[0]] = max(saved[order[0]], int(least * chain.block_tokens + trust * chain.tokens))

        def cost(place: int) -> tuple[bool, float, tuple[int, int]]:
            tie = (ranks[place], 0) if home else self._loads.idleness(pods[place])
            burden = work[place] * self._rule.waiting + recent_tokens[place] * steady
            return work[place] > limit, burden - saved[place], tie

        best = min(range(len(pods)), key=cost)
        reason: Reason = "least_load"
        if known[best] > least:
            reason = "prefix"
        elif home and trust and best == order[0]:
            reason = "hash"
        return Choice(pods[best], reason, known[best], total)

    def _trust(self, model: str, chain: PrefixChain, gained: int) -> float:
        """How much of a prompt the hash's pod is supposed to have: nothing where nothing is found again."""
        if not chain.tokens:
            return 0.0
        saved, asked = self._savings.get(model, (self._rule.start * chain.tokens, chain.tokens))
        saved += _MEMORY * (gained * chain.block_tokens - saved)
        asked += _MEMORY * (chain.tokens - asked)
        self._savings[model] = saved, asked
        return min(1.0, self._rule.trust * saved / asked)


def home_key(chain: PrefixChain, shared: int) -> tuple[bytes, int]:
    """What the hash places, and how many blocks it covers: a conversation's anchor. Of a prompt without turns some
    blocks beyond the `shared` ones, which most pods have: what everybody begins with must not bring everybody together.
    """
    if chain.opening or not chain.blocks:
        return chain.anchor, chain.opening
    opening = min(shared + _OPENING_TOKENS // chain.block_tokens, len(chain.blocks))
    return chain.blocks[opening - 1], opening


def ranking(key: bytes, pods: Sequence[Pod]) -> list[int]:
    """Places of `pods` in this key's own order (rendezvous hashing): it keeps its order when other pods go or come."""
    return sorted(range(len(pods)), key=lambda place: _hash(key, pods[place].uid), reverse=True)


def of_revision(pods: Sequence[Pod], weights: Mapping[str, int], key: bytes) -> Sequence[Pod]:
    """The pods of the revision that a key belongs to, in proportion to the weights; all of them without weights.

    Weighted rendezvous hashing: a weight that grows draws keys to its revision and moves no others.
    """
    pipeline = {pod.revision: weights[pod.revision] for pod in pods if weights.get(pod.revision, 0) > 0}
    if not pipeline:
        return pods

    def distance(revision: str) -> float:
        return -math.log((_hash(key, revision) + 1) / 2**64) / pipeline[revision]

    chosen = min(sorted(pipeline), key=distance)
    return [pod for pod in pods if pod.revision == chosen]


def _hash(key: bytes, name: str) -> int:
    return int.from_bytes(blake2b(key + b"/" + name.encode(), digest_size=8).digest(), "big")
