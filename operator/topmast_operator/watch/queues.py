"""What gateways tell of their queues, added up by model, and how the sums change. Pure: times are arguments.

The level of a queue is what waits plus what went away without a turn and did not come back: it grows by new work alone,
also where a gateway is full or sends away who would wait too long, and shrinks by what engines took.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from topmast_operator.api.facts import Queue

TREND_S = 10.0
LEAST_SPAN_S = 1.0  # a rate over less is noise
KEPT_S = 60.0  # the time in which a backlog should be worked off: plan/load.py counts what was drained in it


@dataclass(frozen=True)
class Work:
    """Requests, tokens of their prompts to compute, and tokens of their answers to make."""

    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
        )

    def __sub__(self, other: "Work") -> "Work":
        return Work(
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.output_tokens - other.output_tokens,
        )


@dataclass(frozen=True)
class Told:
    """One gateway's word about one model."""

    waiting: Work = field(default_factory=Work)
    gone: Work = field(default_factory=Work)
    oldest_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """One gateway's `/queue`. `replica` is its process; models are `namespace/name`."""

    replica: str
    models: Mapping[str, Told]


@dataclass(frozen=True)
class Look:
    """One model at one moment (monotonic seconds). `level` has an arbitrary zero."""

    at: float
    waiting: Work
    level: Work
    oldest_s: float


def parse_answer(body: Any) -> Answer:
    """The contract's JSON. KeyError, TypeError, ValueError or AttributeError when it is something else."""
    models = {str(model): _told(told) for model, told in body["models"].items()}
    return Answer(str(body["replica"]), models)


def _told(body: Mapping[str, Any]) -> Told:
    return Told(_work(body["waiting"]), _work(body["gone"]), float(body["oldest_s"]))


def _work(body: Mapping[str, Any]) -> Work:
    return Work(int(body["requests"]), int(body["prompt_tokens"]), int(body["output_tokens"]))


class Queues:
    """The latest answers by gateway, and the looks at each model that somebody `watches`."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._gone: dict[str, Work] = {}
        self._looks: dict[str, deque[Look]] = {}

    @property
    def watched(self) -> frozenset[str]:
        return frozenset(self._looks)

    def watch(self, model: str, at: float) -> None:
        """Look at it from now on, and for the first time at once."""
        if model not in self._looks:
            self._looks[model] = deque()
            self._look(model, at)

    def unwatch(self, model: str) -> None:
        self._looks.pop(model, None)
        self._gone.pop(model, None)

    def hear(self, gateway: str, answer: Answer) -> None:
        """A gateway has answered. What had gone before the first answer of its process is nobody's news."""
        before = self._answers.get(gateway)
        self._answers[gateway] = answer
        if before is None or before.replica != answer.replica:
            return
        for model in self._looks:
            change = _of(answer, model).gone - _of(before, model).gone
            self._gone[model] = self._gone.get(model, Work()) + change

    def forget(self, gateway: str) -> None:
        """It is gone, and with it what waited there."""
        self._answers.pop(gateway, None)

    def look(self, at: float) -> list[str]:
        """Note the sums as they are now; the models for which somebody waits, or has just stopped to."""
        moved = []
        for model, looks in self._looks.items():
            before = looks[-1].waiting.requests
            if self._look(model, at) or before:
                moved.append(model)
            while at - looks[0].at > KEPT_S:
                looks.popleft()
        return moved

    def queue(self, model: str) -> Queue:
        """The facts about a model that is watched."""
        return queue_of(tuple(self._looks[model]))

    def _look(self, model: str, at: float) -> int:
        """Requests that wait for it now."""
        told = [_of(answer, model) for answer in self._answers.values()]
        waiting = sum((item.waiting for item in told), Work())
        level = waiting + self._gone.get(model, Work())
        self._looks[model].append(Look(at, waiting, level, max((item.oldest_s for item in told), default=0.0)))
        return waiting.requests


def _of(answer: Answer, model: str) -> Told:
    return answer.models.get(model) or Told()


def queue_of(looks: tuple[Look, ...]) -> Queue:
    """The facts that follow from the looks of the last minute, oldest first, of which there is at least one."""
    last, recent = looks[-1], _since_nobody_waited(looks)
    return Queue(
        requests=last.waiting.requests,
        prompt_tokens=last.waiting.prompt_tokens,
        output_tokens=last.waiting.output_tokens,
        oldest_s=last.oldest_s,
        prompt_growth_per_s=_growth([(look.at, look.level.prompt_tokens) for look in recent]),
        output_growth_per_s=_growth([(look.at, look.level.output_tokens) for look in recent]),
        prompt_drained=max(look.level.prompt_tokens for look in looks) - last.level.prompt_tokens,
        output_drained=max(look.level.output_tokens for look in looks) - last.level.output_tokens,
    )


def _since_nobody_waited(looks: tuple[Look, ...]) -> list[Look]:
    """The looks at this queue: the last one before it began, and those since, of the last TREND_S seconds."""
    recent: list[Look] = []
    for look in reversed(looks):
        if looks[-1].at - look.at > TREND_S:
            break
        recent.append(look)
        if not look.waiting.requests:
            break
    return recent[::-1]


def _growth(levels: list[tuple[float, int]]) -> float:
    """Tokens a second by which a level grew in both halves of its time, the slower one: a burst is in one alone.

    The more looks, the longer the halves, and the less chance is in them.
    """
    if len(levels) < 3:
        return 0.0
    first, middle, last = levels[0], levels[len(levels) // 2], levels[-1]
    return max(0.0, min(_slope(first, middle), _slope(middle, last)))


def _slope(earlier: tuple[float, int], later: tuple[float, int]) -> float:
    return (later[1] - earlier[1]) / max(LEAST_SPAN_S, later[0] - earlier[0])
