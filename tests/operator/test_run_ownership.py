"""Two releases that watch one model: one of them looks after it, and both say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operatorlab import facts

from topmast_operator.act.report import Reporter
from topmast_operator.api.resource import Model
from topmast_operator.run.ownership import ANSWER_S, ASK_AGAIN_S, RIVAL_S, Ownership, judge

A, B = "a-ns/topmast", "b-ns/topmast"


class Shared:
    """The model that both see, and a clock for each of them that is hours off the other's."""

    def __init__(self) -> None:
        self.noted: dict[str, str] = {}
        self.now = facts.NOW
        self.events: list[str] = []

    async def merge(self, path: str, patch: Any) -> None:
        for name, value in patch["status"]["operator"].items():
            self.noted[name] = value
        self.noted = {name: value for name, value in self.noted.items() if value is not None}

    async def request(self, method: str, path: str, *, body: Any) -> None:
        self.events.append(body["note"])

    def model(self) -> Model:
        return replace(facts.model(), operator=dict(self.noted), status={"phase": "Ready"})


def operators(shared: Shared) -> tuple[Ownership, Ownership]:
    first = Ownership(shared, A, lambda: shared.now)  # type: ignore[arg-type]
    return first, Ownership(shared, B, lambda: shared.now + 7200)  # type: ignore[arg-type]


async def test_the_owner_that_lives_keeps_the_model_and_the_other_one_says_so() -> None:
    shared = Shared()
    first, second = operators(shared)
    assert (await first.settle(shared.model())).mine and shared.noted == {"lease": A}
    asked = await second.settle(shared.model())
    assert not asked.mine and asked.again_s == ANSWER_S and not shared.events
    answered = await first.settle(shared.model())
    assert answered.mine and answered.rival == B, "whatever its clock says about the time of the question"
    shared.now += ANSWER_S + 1
    told = await second.settle(shared.model())
    assert (told.mine, told.rival) == (False, A)
    assert not (await second.settle(shared.model())).mine and (await first.settle(shared.model())).mine
    assert len(shared.events) == 2 and all(A in said and B in said for said in shared.events), "each says it once"
    shared.now += ASK_AGAIN_S
    assert not (await second.settle(shared.model())).mine and "answered" not in shared.noted, "it asks again"


async def test_an_owner_that_is_gone_is_followed_and_asks_when_it_comes_back() -> None:
    shared = Shared()
    first, second = operators(shared)
    await first.settle(shared.model())
    assert not (await second.settle(shared.model())).mine
    shared.now += ANSWER_S - 1
    assert not (await second.settle(shared.model())).mine
    shared.now += 2
    assert (await second.settle(shared.model())).mine and shared.noted == {"lease": B}
    assert not (await first.settle(shared.model())).mine
    assert (await second.settle(shared.model())).mine
    assert (await first.settle(shared.model())).rival == B


def test_a_settled_model_costs_no_write_and_a_rival_is_forgotten_when_it_asks_no_more() -> None:
    assert judge({"lease": A}, A, facts.NOW) == judge({"lease": A}, A, facts.NOW + 1e6)
    assert judge({"lease": A}, A, facts.NOW).patch is None
    asked = {"lease": A, "askedBy": B, "askedAt": "2027-01-15T08:00:00Z", "answered": "2027-01-15T08:00:00Z"}
    assert judge(asked, A, facts.NOW + RIVAL_S - 1).rival == B
    assert judge(asked, A, facts.NOW + RIVAL_S + 1).rival == ""


async def test_a_new_model_is_claimed_by_its_first_status() -> None:
    shared = Shared()
    first, second = operators(shared)
    assert (await first.settle(replace(shared.model(), status={}))).mine and shared.noted == {}
    written: list[Any] = []

    class Written:
        async def apply(self, path: str, body: Any) -> None:
            written.append(body["status"])

    of = facts.model()
    assert await Reporter(Written(), A).report(of, {"phase": "Pending", "conditions": []}, ())  # type: ignore[arg-type]
    assert written == [{"phase": "Pending", "conditions": [], "operator": {"lease": A}}]
    shared.noted = dict(written[0]["operator"])
    assert not (await second.settle(shared.model())).mine
