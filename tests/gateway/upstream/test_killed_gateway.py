"""One of two gateways is killed in mid-stream while the API server is away: what clients see, and who is charged what.

The story is told once, with real engines, and each test looks at one promise of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.lab.accounts.charges import Charges
from gateway.lab.accounts.engine_accounts import Meter
from gateway.lab.replica import Replica, spender, two_gateways
from gateway.lab.served import two_engines
from gateway.lab.stage import SECRET, SYSTEM, Stage, eventually
from topmast_cluster.cluster import Cluster
from traffic import Answer, Ask, Log, OpenLoop, long, mixed, undisturbed

NAMESPACE, MODEL = "killed", "smollm2"
CALLER, KEY = "spender", "tm-" + "p" * 40
# Answers move for no other reason: a machine that stands still for some seconds is none.
GATEWAY = ("--namespace", NAMESPACE, "--hold-s", "30", "--silence-s", "60")
ENGINE = ("--batch-invariant", "--ttft-target-s", "120", "--hang-timeout-s", "60")
MID_STREAM = 100  # pieces of text that clients have read of an answer


def in_one_piece(ask: Ask) -> Ask:
    """The same, not streamed."""
    fields: dict[str, Any] = {name: value for name, value in ask.fields.items() if not name.startswith("stream")}
    return replace(ask, number=ask.number + 1000, fields=fields)


STREAMS = long(5, tokens=300)[2:]
LONG = [*STREAMS, *map(in_one_piece, STREAMS[1:])]  # both by the bare client and by the SDK
OTHERS = mixed(16, seed=9)


@dataclass(frozen=True)
class Aftermath:
    """What can be looked at when the killed gateway is back and all answers have ended."""

    log: Log
    replicas: list[Replica]
    open_at_the_kill: list[Answer]  # at the gateway that was killed
    ready_without_api_server: int  # what it said when it was started again
    charges: Charges
    meter: Meter


@pytest.fixture(scope="module")
def replicas(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    """Two gateways, and a key with a budget."""
    spender(stage, CALLER, KEY)
    with two_gateways(stage.kubeconfig, tmp_path_factory.mktemp("gateways"), *GATEWAY) as pair:
        yield pair
    stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"data": {CALLER: None}})


@pytest.fixture(scope="module")
def aftermath(
    cluster: Cluster, stage: Stage, replicas: list[Replica], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Aftermath]:
    """The story."""
    victim, other = replicas
    stage.namespace(NAMESPACE)
    stage.model(NAMESPACE, MODEL)
    with two_engines(tmp_path_factory.mktemp("engines"), MODEL, flags=ENGINE) as engines:
        for engine in engines:
            stage.pod(NAMESPACE, MODEL, engine.ip)
        expected = undisturbed(f"http://{engines[0].ip}:8000/v1", MODEL, [*LONG, *OTHERS])
        for replica in replicas:
            replica.gateway.wait_ready().sees(f"{NAMESPACE}/{MODEL}", 2)
        doors = [victim.door]
        load = OpenLoop(doors, KEY, MODEL, [*OTHERS, *STREAMS], expected, per_s=2, seed=69, first=LONG)
        meter, log = Meter(engines), load.log
        with meter, load:
            eventually(lambda: len(log.coming) >= len(LONG), "the long answers are asked for")
            doors[:] = [other.door]
            cluster.stop_apiserver()
            try:
                eventually(lambda: in_mid_stream(log, victim, other), "both stream", 60)
                open_at_the_kill = open_at(log, victim)
                log.killed(victim.door)
                victim.kill()
                eventually(lambda: not open_at(log, victim), "its clients know", 60)
                victim.start()
                served = len(log.ended) + 4
                eventually(lambda: len(log.ended) >= served, "the other one goes on serving", 60)
                ready = victim.gateway.ready()
            finally:
                cluster.start_apiserver()
            victim.gateway.wait_ready().sees(f"{NAMESPACE}/{MODEL}", 2, 60)
            log.returned(victim.door)
            doors[:] = [victim.door]
            eventually(lambda: streams(log, victim) > 0, "it serves again", 60)
        eventually(lambda: all(replica.wrote_all() for replica in replicas), "every line is written")
        charges = Charges(log, expected, [each.usage_log for each in replicas], [each.log for each in engines])
        yield Aftermath(log, replicas, open_at_the_kill, ready, charges, meter)


def open_at(log: Log, replica: Replica) -> list[Answer]:
    """What its clients wait for or read."""
    return [answer for answer in list(log.coming) if answer.door == replica.door]


def streams(log: Log, replica: Replica) -> int:
    """Streams that its clients read."""
    return sum(answer.streams and bool(answer.events_s) for answer in open_at(log, replica))


def in_mid_stream(log: Log, victim: Replica, other: Replica) -> bool:
    """The one is far into its long answers, and has charged all others; the other one streams, too."""
    answers = open_at(log, victim)
    return (
        len(answers) == len(LONG)
        and all(answer.pieces >= MID_STREAM for answer in answers if answer.streams)
        and victim.wrote_all()
        and streams(log, other) > 0
    )


def test_what_it_had_open_ends_in_an_error_and_is_whole_when_asked_again(aftermath: Aftermath) -> None:
    log, answers = aftermath.log, aftermath.open_at_the_kill
    assert len(answers) == len(LONG)
    assert all(answer.broken and not answer.ended for answer in answers), answers
    assert len(log.interrupted) == log.retried_fine == len(LONG), log.report()
    kinds = {(visit.ask.by_sdk, visit.ask.streams) for visit in log.interrupted}
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}


def test_nobody_else_notices_anything(aftermath: Aftermath) -> None:
    aftermath.log.assert_clean(at_least=2 * len(LONG) + 8)


def test_started_again_without_the_api_server_it_waits_for_it(aftermath: Aftermath) -> None:
    assert aftermath.ready_without_api_server == 503


def test_every_answer_is_charged_once_and_to_the_token(aftermath: Aftermath) -> None:
    assert aftermath.charges.wrong == []


def test_engines_made_what_is_charged_and_what_was_open_and_no_second_more(aftermath: Aftermath) -> None:
    charges, meter = aftermath.charges, aftermath.meter
    assert charges.kinds == {"open": len(LONG)}
    assert meter.made.prompt == charges.charged.prompt + charges.uncharged.prompt
    more = meter.made.output - charges.charged.output - charges.uncharged.output
    assert 0 <= more <= meter.one_second
    assert max(charges.unread) <= meter.one_second


def test_what_it_had_open_is_charged_but_for_one_second_of_tokens(aftermath: Aftermath) -> None:
    charges = aftermath.charges
    lost = charges.uncharged.prompt + charges.uncharged.output - charges.charged_open
    assert 0 <= lost <= aftermath.meter.one_second


def test_both_gateways_count_in_the_budget_what_the_usage_logs_say(aftermath: Aftermath) -> None:
    charges, replicas = aftermath.charges, aftermath.replicas
    logged = charges.charged.prompt + charges.charged.output + charges.charged_open
    eventually(lambda: all(replica.charged(CALLER) == logged for replica in replicas), "they agree")
