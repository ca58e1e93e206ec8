"""Clusters with one address family: the gateway, engines and the operator on IPv6 alone, and on IPv4 alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from topmast_gateway.http.listener import bind
from topmast_operator.run.metrics import Metrics
from topmast_operator.run.web import serve

TESTS = Path(__file__).parents[2]


def reaches(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.settimeout(5)
        return client.connect_ex((address, port)) == 0


@pytest.mark.timeout(400)
def test_an_engine_a_gateway_and_the_operator_talk_where_there_is_no_ipv4() -> None:
    """In a network namespace of their own, whose loopback has ::1 and nothing else."""
    network = 'ip link set lo up && ip -4 addr flush dev lo && exec "$@"'
    command = [
        "unshare",
        "--net",
        "--kill-child",
        "sh",
        "-ec",
        network,
        "sh",
        sys.executable,
        "-m",
        "gateway.lab.ipv6_only",
    ]
    paths = [str(TESTS), str(TESTS / "operator"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, cwd=TESTS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["ipv4"] is False, "the test would prove nothing"
    assert "capital of Japan is" in said["answer"], "a model answered; how well is no matter of addresses"
    assert said["state"] == ["ready"]
    assert said["operator"] == "ok"


def test_the_gateway_answers_on_both_families_and_on_the_one_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with bind("::", 0) as both:
        both.listen()
        assert reaches("127.0.0.1", both.getsockname()[1]) and reaches("::1", both.getsockname()[1])
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with bind("::", 0) as alone:
        alone.listen()
        assert reaches("127.0.0.1", alone.getsockname()[1]) and not reaches("::1", alone.getsockname()[1])


async def test_the_operator_answers_on_both_families_and_on_the_one_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for dual in (True, False):
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda dual=dual: dual)
        runner = await serve("::", 0, Metrics(), lambda: "", lambda: "")
        port = runner.addresses[0][1]
        assert reaches("127.0.0.1", port) and reaches("::1", port) is dual
        await runner.cleanup()
