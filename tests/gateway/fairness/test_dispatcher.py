"""Waiting for a slot: it comes when there is room, ends when the time or the client does, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from gateway.lab.stage import soon
from topmast_gateway.fairness.capacity import ModelCapacity
from topmast_gateway.fairness.dispatcher import MAX_WAITING_BYTES, Dispatcher, QueueRequest
from topmast_gateway.identity.caller import Caller, Priority
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.messages.errors import ApiError, ModelUnavailable
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.endpoint_picker import EndpointPicker
from topmast_gateway.routing.model_table import Model, ModelTable, Pod

ALICE, BOB = Caller("alice"), Caller("bob")


class UntilTimeIsOver:
    """Waits so long and has no other reason to stop."""

    def __init__(self, longest_s: float) -> None:
        self.longest_queue_s = longest_s
        self._until = asyncio.get_running_loop().time() + longest_s

    def no_pod_retry_s(self) -> int | None:
        return None

    async def look(self) -> float:
        return self._until - asyncio.get_running_loop().time()


class Stage:
    """A model with so many places, and who holds them."""

    def __init__(self, places: int, max_waiting: int = 100) -> None:
        self.places = places
        self.dispatcher = Dispatcher(lambda _model, running: self.places - running, max_waiting)
        self.served: list[str] = []
        self.most = self.holding = 0

    async def request(
        self, caller: Caller, *, hold_s: float = 0.0, longest_wait_s: float = 5.0, body_bytes: int = 0
    ) -> None:
        wanted = QueueRequest(caller, Priority.NORMAL, 10, body_bytes)
        with await self.dispatcher.slot("ns/m", wanted, TokenUsage(), UntilTimeIsOver(longest_wait_s)):
            self.served.append(caller.name)
            self.holding += 1
            self.most = max(self.most, self.holding)
            try:
                await asyncio.sleep(hold_s)
            finally:
                self.holding -= 1

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """All places are taken while the block runs."""
        holders = [asyncio.create_task(self.request(Caller("holder"), hold_s=60)) for _ in range(self.places)]
        await soon(lambda: self.holding == self.places, "all places are taken")
        try:
            yield
        finally:
            for task in holders:
                task.cancel()
            await asyncio.gather(*holders, return_exceptions=True)

    def left_behind(self) -> tuple[int, dict[str, int]]:
        return self.holding, self.dispatcher.waiting()


async def test_there_are_never_more_at_once_than_there_is_room_and_all_get_their_slot() -> None:
    stage = Stage(4)
    await asyncio.gather(*(stage.request(caller, hold_s=0.001) for caller in (ALICE, BOB) for _ in range(50)))
    assert stage.most == 4 and len(stage.served) == 100
    assert stage.left_behind() == (0, {})


async def test_a_cancelled_client_leaves_the_queue_at_once_and_those_behind_it_move_up() -> None:
    stage = Stage(1)
    async with stage.busy():
        waiting = [asyncio.create_task(stage.request(caller)) for caller in (ALICE, BOB)]
        await soon(lambda: stage.dispatcher.waiting() == {"ns/m": 2}, "both wait")
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert stage.dispatcher.waiting() == {"ns/m": 1}
    await waiting[1]
    assert stage.served[-1] == "bob" and stage.left_behind() == (0, {})


async def test_who_waits_too_long_hears_it_in_time_and_with_retry_after() -> None:
    stage = Stage(1)
    async with stage.busy():
        start = asyncio.get_running_loop().time()
        with pytest.raises(ApiError) as refused:
            await stage.request(ALICE, longest_wait_s=0.1)
        assert asyncio.get_running_loop().time() - start == pytest.approx(0.1)
    assert (refused.value.status, refused.value.code) == (503, "deadline_exceeded")
    assert int(dict(refused.value.headers)[b"retry-after"]) >= 1
    assert stage.left_behind() == (0, {})


async def test_a_full_queue_refuses_the_one_whose_share_it_is() -> None:
    stage = Stage(1, max_waiting=4)
    async with stage.busy():
        alices = [asyncio.create_task(stage.request(ALICE)) for _ in range(4)]
        await soon(lambda: stage.dispatcher.waiting() == {"ns/m": 4}, "the queue is full")
        with pytest.raises(ApiError) as refused:
            await stage.request(ALICE)
        assert (refused.value.status, refused.value.code) == (503, "queue_full")
        bob = asyncio.create_task(stage.request(BOB))
        with pytest.raises(ApiError) as refused:
            await alices[3]
        assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    await asyncio.gather(bob, *alices[:3])
    assert stage.left_behind() == (0, {})


async def test_who_waits_for_a_model_without_a_pod_waits_in_fair_shares_too() -> None:
    """Requests for a model that sleeps had a queue of their own, which one key could fill for everybody."""
    stage = Stage(0, max_waiting=4)
    alices = [asyncio.create_task(stage.request(ALICE)) for _ in range(4)]
    await soon(lambda: stage.dispatcher.waiting() == {"ns/m": 4}, "she has the whole queue")
    bob = asyncio.create_task(stage.request(BOB))
    with pytest.raises(ApiError) as refused:
        await alices[3]
    assert refused.value.status == 429
    stage.places = 2  # a pod is awake
    await asyncio.gather(bob, *alices[:3])
    assert "bob" in stage.served[:2] and stage.left_behind() == (0, {})


async def test_bodies_that_wait_for_one_model_have_a_bound_and_nobody_s_large_ones_keep_others_out() -> None:
    stage = Stage(0)
    half = MAX_WAITING_BYTES // 2
    large = [asyncio.create_task(stage.request(ALICE, body_bytes=half)) for _ in range(2)]
    with pytest.raises(ApiError) as refused:
        await large[1]
    assert refused.value.status == 429
    assert stage.dispatcher.waiting() == {"ns/m": 1}
    bob = asyncio.create_task(stage.request(BOB, body_bytes=half // 2))
    carol = asyncio.create_task(stage.request(Caller("carol"), body_bytes=half))
    with pytest.raises(ApiError) as refused:
        await carol
    assert (refused.value.status, refused.value.code) == (503, "queue_full")
    stage.places = 1
    await asyncio.gather(large[0], bob)
    await stage.request(ALICE, body_bytes=10 * MAX_WAITING_BYTES)  # alone, it may wait
    assert stage.left_behind() == (0, {}) and stage.dispatcher._bytes == {}


async def test_room_that_comes_without_a_requests_end_is_seen() -> None:
    stage = Stage(1)
    async with stage.busy():
        waiting = asyncio.create_task(stage.request(ALICE))
        await soon(lambda: stage.dispatcher.waiting() == {"ns/m": 1}, "it waits")
        stage.places = 2  # a pod became ready
        await asyncio.wait_for(waiting, 1)
        stage.places = 1


async def test_nothing_is_left_of_1000_requests_with_cancels_and_timeouts() -> None:
    stage, rng = Stage(5, max_waiting=50), random.Random(3)
    tasks = []
    for number in range(1000):
        asking = stage.request(Caller(f"c{number % 7}"), hold_s=rng.random() / 500, longest_wait_s=rng.random() / 20)
        tasks.append(asyncio.create_task(asking))
        if rng.random() < 0.2:
            await asyncio.sleep(0)
            rng.choice(tasks).cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {type(None), ApiError, ModelUnavailable, asyncio.CancelledError}
    assert stage.most == 5 and stage.left_behind() == (0, {})


async def test_a_pod_that_says_it_is_full_gets_fewer_for_a_while() -> None:
    pods = [Pod(str(number), "ns", f"pod-{number}", "ns/m", "127.0.0.1:8000") for number in range(2)]
    loads = EndpointLoads()
    cluster = ClusterState([], "ns", "keys", loads, EndpointPicker(loads))
    room = ModelCapacity(cluster, loads, per_pod=48)
    assert room.free_places("ns/m", 0) == 0  # without a pod they wait, in the same order, until one is awake
    cluster.routes = ModelTable([Model("ns", "m")], pods)
    assert room.free_places("ns/m", 6) == 90
    with contextlib.ExitStack() as open_requests:
        for _ in range(20):
            open_requests.enter_context(loads.sending(pods[0], 1))
        loads.was_full(pods[0])
    assert room.free_places("ns/m", 0) == 48 + 20
    for pod in pods:  # both refused a connection a moment ago: their queue is not poured out
        cluster.avoid(pod, 5)
    assert room.free_places("ns/m", 68) == -68
