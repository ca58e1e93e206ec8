"""Real engines die, hang, freeze and leave under continuous traffic, and no client notices.

Every answer is compared with an undisturbed one, and no stream pauses for longer than detection and a new start take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.lab.faults import FAULTS, FLAGS, SHORT_DRAIN, Fault, Site
from gateway.lab.served import Served, two_engines
from gateway.lab.stage import KEY, Gateway, Stage, eventually
from topmast_cluster.cluster import Cluster
from traffic import Answer, Log, OpenLoop, long, mixed, undisturbed

NAMESPACE, MODEL = "faults", "smollm2"
SILENCE_S = 2.0
MOVE_S = 3.0  # a moved stream's pause beyond detection: a connection, and the prompt computed once more
MOVED = "topmast_gateway_move_gap_seconds_count"
GATEWAY = ("--namespace", NAMESPACE, "--hold-s", "30", "--silence-s", f"{SILENCE_S:g}", "--drain-notice-s", "1")
ASKS, FIRST = mixed(24, seed=6), long(2, tokens=150)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    """Two engines of one model, which leave quickly when asked to."""
    with two_engines(tmp_path_factory.mktemp("engines"), MODEL, flags=(*FLAGS, *SHORT_DRAIN)) as served:
        yield served


@pytest.fixture(scope="module")
def expected(engines: list[Served]) -> Mapping[int, Answer]:
    """What the clients would get without faults."""
    return undisturbed(f"http://{engines[0].ip}:8000/v1", MODEL, [*ASKS, *FIRST])


@pytest.fixture(scope="module")
def front(stage: Stage, new_gateway: Callable[..., Gateway]) -> Gateway:
    """The gateway of these tests."""
    stage.namespace(NAMESPACE)
    return new_gateway(*GATEWAY).wait_ready()


@pytest.fixture(scope="module")
def site(stage: Stage, front: Gateway, engines: list[Served]) -> Site:
    """Both engines as pods that the gateway knows."""
    site = Site(stage, NAMESPACE, MODEL, engines)
    front.sees(f"{NAMESPACE}/{MODEL}", 2)
    return site


@pytest.fixture(scope="module")
def load(front: Gateway, expected: Mapping[int, Answer]) -> Callable[..., OpenLoop]:
    """Traffic through the gateway, or at the given URLs."""

    def start(seed: int, urls: list[str] | None = None, per_s: float = 3.0) -> OpenLoop:
        return OpenLoop(urls or [f"{front.url}/v1"], KEY, MODEL, ASKS, expected, per_s=per_s, seed=seed, first=FIRST)

    return start


def until_busy(log: Log, *engines: Served) -> None:
    """Every one of these computes, and clients read streams."""
    eventually(lambda: log.streaming >= 2 and all(each.running() for each in engines), "traffic flows", 30)


def until_more(log: Log, count: int) -> None:
    """So many further requests end."""
    until(log, len(log.ended) + count)


def until(log: Log, count: int) -> None:
    """So many requests have ended, however fast the rest of a test was."""
    eventually(lambda: len(log.ended) >= count, f"{count} answers: {log.report()}", 60)


def test_without_a_fault_every_answer_is_the_engines_own(site: Site, load: Callable[..., OpenLoop]) -> None:
    with load(seed=4) as log:
        until_more(log, 12)
    log.assert_clean(at_least=12)


def until_ended(log: Log, answers: list[Answer]) -> None:
    """All of these have come to an end: what was running at the fault needs nothing from its victim any more."""
    eventually(lambda: not any(answer in log.coming for answer in answers), f"they end: {log.report()}", 60)


@pytest.mark.parametrize("name", FAULTS)
def test_no_client_notices_when(
    name: str, site: Site, front: Gateway, engines: list[Served], load: Callable[..., OpenLoop]
) -> None:
    fault: Fault = FAULTS[name]
    victim = engines[list(FAULTS).index(name) % 2]
    moved = front.metric(MOVED)
    with load(seed=sum(name.encode())) as log:
        until_busy(log, *engines)
        fault.strike(site, victim)
        under_way = list(log.coming)
        if fault.silent:  # a pod that comes back before its silence was noticed would go on by itself
            until_ended(log, under_way)
        fault.mend(site, victim)
        until_ended(log, under_way)
        eventually(lambda: bool(victim.running()), "the pod serves again", 30)
        until(log, 8)
    log.assert_clean(at_least=8)
    assert front.metric(MOVED) > moved, "no answer was under way at the fault; the test shows nothing"
    detection_s = SILENCE_S if fault.silent else fault.detection_s
    assert log.longest_gaps_s()[-1] <= detection_s + MOVE_S, log.report()
    assert front.metric("topmast_gateway_tokens_in_flight") == 0
    assert front.metric("topmast_gateway_requests_in_flight") == 0


def test_no_client_notices_when_a_gateway_is_restarted(
    site: Site, front: Gateway, new_gateway: Callable[..., Gateway], load: Callable[..., OpenLoop]
) -> None:
    other = new_gateway(*GATEWAY).wait_ready()
    other.sees(f"{NAMESPACE}/{MODEL}", 2)
    urls = [f"{other.url}/v1", f"{front.url}/v1"]
    with load(seed=2, urls=urls) as log, ThreadPoolExecutor(1) as pool:  # both long answers begin at the other one
        eventually(lambda: other.metric("topmast_gateway_requests_in_flight") >= 2, "both gateways have streams", 30)
        leaving = pool.submit(other.stop)
        eventually(lambda: other.ready() != 200, "it says that it leaves")
        urls.remove(f"{other.url}/v1")  # what a Service does with a pod that is not ready
        assert leaving.result(40) == 0
        urls.append(f"{new_gateway(*GATEWAY).wait_ready().url}/v1")
        until_more(log, 4)
        until(log, 8)
    log.assert_clean(at_least=8)


def test_no_client_notices_when_a_server_dies_while_the_api_server_is_away(
    cluster: Cluster, site: Site, engines: list[Served], load: Callable[..., OpenLoop]
) -> None:
    with load(seed=2) as log:
        until_busy(log, *engines)
        cluster.stop_apiserver()
        try:
            site.kill_server(engines[1])
            until_ended(log, list(log.coming))
            engines[1].restart()
            eventually(lambda: bool(engines[1].running()), "it is found again without the API server", 90)
        finally:
            cluster.start_apiserver()
        until_more(log, 4)
        until(log, 10)
    log.assert_clean(at_least=10)
    assert log.longest_gaps_s()[-1] <= MOVE_S, log.report()


def test_answers_of_a_model_with_one_pod_wait_for_its_restart_and_continue(
    site: Site, front: Gateway, engines: list[Served], load: Callable[..., OpenLoop]
) -> None:
    only, spare = engines
    site.unlabel_pod(spare)
    front.sees(f"{NAMESPACE}/{MODEL}", 1)
    with load(seed=3, per_s=2.0) as log:
        until_busy(log, only)
        site.kill_server(only)
        eventually(lambda: front.metric("topmast_gateway_requests_held") >= 2, "requests wait for a pod", 10)
        only.restart()
        until_more(log, 6)
    log.assert_clean(at_least=6)
