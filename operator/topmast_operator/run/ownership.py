"""Which of two releases looks after a model that both watch: found out through the model itself, with no other right.

The first writes its Lease's name into `status.operator`, with its first status, and keeps the model. Another one asks
there before it acts; the owner, while it lives, answers no, and the other leaves the model alone and says so. Without
an answer it takes over. A call costs nothing while nobody asks, and clocks are not compared: an answer repeats the time
of the question.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from topmast_operator.act import paths
from topmast_operator.act.client import Api
from topmast_operator.act.emit import emit
from topmast_operator.api.resource import Model
from topmast_operator.api.times import to_text, to_unix
from topmast_operator.plan.events import Event

ANSWER_S = 20.0  # a pass of the owner takes less; a longer silence means that it is gone
ASK_AGAIN_S = 600.0
RIVAL_S = 1.5 * ASK_AGAIN_S  # since it last asked

log = logging.getLogger(__name__)

Patch = Mapping[str, str | None]


@dataclass(frozen=True)
class Verdict:
    """Whether this operator acts on the model; `rival` is the other one; `again_s`: when to look again."""

    mine: bool
    patch: Patch | None = None
    rival: str = ""
    again_s: float | None = None


def judge(noted: Mapping[str, str], me: str, now: float, *, asked: bool = True, new: bool = False) -> Verdict:
    """What `status.operator` means for the operator with the Lease `me`, and what it writes there.

    asked: this process put the question that is noted there. One that has just started asks anew.
    new: the model has no status yet; its first one will name the Lease, and needs no write of its own for that.
    """
    owner, asker, asked_at = noted.get("lease", me), noted.get("askedBy", ""), noted.get("askedAt", "")
    asked_s = now - to_unix(asked_at) if asked_at else float("inf")
    answered = bool(asked_at) and noted.get("answered") == asked_at
    if owner == me:
        patch = {} if "lease" in noted or new else {"lease": me}
        if asker and not answered:
            patch["answered"] = asked_at
        return Verdict(True, patch or None, rival=asker if asked_s < RIVAL_S else "")
    if asker == me and asked_s < (ASK_AGAIN_S if answered else ANSWER_S):
        return Verdict(
            False, rival=owner if answered else "", again_s=(ASK_AGAIN_S if answered else ANSWER_S) - asked_s
        )
    if asker == me and asked and not answered:
        return Verdict(True, {"lease": me, "askedBy": None, "askedAt": None, "answered": None})
    return Verdict(False, {"askedBy": me, "askedAt": to_text(now), "answered": None}, again_s=ANSWER_S)


class Ownership:
    """Asks and answers for one operator. `me` is its Lease as namespace/name."""

    def __init__(self, api: Api, me: str, clock: Callable[[], float] = time.time) -> None:
        self._api = api
        self.me = me
        self._clock = clock
        self._asked: set[str] = set()  # models
        self._told: dict[str, str] = {}  # model -> the rival that was told

    async def settle(self, model: Model) -> Verdict:
        """Write what there is to write, and say whether to act on the model."""
        asked, new = model.key in self._asked, not model.status
        verdict = judge(model.operator, self.me, self._clock(), asked=asked, new=new)
        if verdict.patch:
            path = f"{paths.model(model.namespace, model.name)}/status"
            await self._api.merge(path, {"status": {"operator": dict(verdict.patch)}})
            if not verdict.mine:
                self._asked.add(model.key)
        if verdict.rival and verdict.rival != self._told.get(model.key):
            self._told[model.key] = verdict.rival
            await emit(self._api, model, (_event(verdict, self.me),))
        return verdict

    def forget(self, key: str) -> None:
        self._told.pop(key, None)
        self._asked.discard(key)


def _event(verdict: Verdict, me: str) -> Event:
    mine, other = (me, verdict.rival) if verdict.mine else (verdict.rival, me)
    message = (
        f"Two operators watch this model: the one with the Lease {mine} looks after it, the one with the Lease {other} "
        "leaves it alone. Install one of them with other namespaces, or remove it."
    )
    return Event(True, "OtherOperator", "Watch", message)
