"""The serving benchmark tells complete answers from others, right figures from wrong ones, and does not rot."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from server.serving import Server

REPOSITORY = Path(__file__).parents[2]
BENCH = REPOSITORY / "bench"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The package beside bench/serving.py, importable for these tests only."""
    sys.path.insert(0, str(BENCH))
    try:
        import serving_bench.run
        import serving_bench.table

        yield serving_bench
    finally:
        sys.path.remove(str(BENCH))


@pytest.fixture
def running(bench: ModuleType, server: Server) -> Any:
    """The shared server as the benchmark sees one that it has started."""
    ports = [int(url.rpartition(":")[2]) for url in (server.url, server.admin_url)]
    command = bench.process.Command((), "smollm2")
    endpoint = bench.client.Endpoint(ports[0], "smollm2")
    return bench.process.Server(command, server.process, endpoint, ports[1], Path("/dev/null"))


def asks(bench: ModuleType, count: int, tokens: int, output: int) -> list[Any]:
    return bench.load.asks(count, tokens, output, seed=7)


async def test_every_token_of_every_stream_is_counted(bench: ModuleType, running: Any) -> None:
    answers = await bench.load.closed_loop(running.endpoint, asks(bench, 5, 20, 9), 3)
    figures = bench.scenario.figures(answers)
    assert (figures["complete"], figures["errors"]) == (5, {})
    for answer in answers:
        assert (answer.prompt_tokens, answer.output_tokens) == (20, 9)
        times = [answer.sent_s, *answer.events_s, answer.done_s]
        assert times == sorted(times)
        assert 2 <= len(answer.events_s) <= 9
    assert figures["output_tokens_per_s"] == pytest.approx(45 / figures["seconds"], rel=0.01)


async def test_an_answer_of_another_length_is_an_error(bench: ModuleType, running: Any) -> None:
    ask = dataclasses.replace(asks(bench, 1, 8, 5)[0], extra={"max_tokens": 3})
    answer = await bench.client.exchange(running.endpoint, ask)
    assert answer.error == "3 tokens instead of 5"
    assert bench.scenario.figures([answer])["errors"] == {"3 tokens instead of 5": 1}


async def test_a_refused_request_is_no_answer_and_has_a_latency(bench: ModuleType, running: Any) -> None:
    wrong = bench.client.Ask([10**6], 5)
    answer = await bench.client.exchange(running.endpoint, wrong)
    assert answer.status == 400 and "does not exist" in (answer.error or "")
    closed = bench.client.Endpoint(bench.process._free_ports(1)[0], "smollm2")
    answer = await bench.client.exchange(closed, wrong)
    assert answer.status == 0 and "no connection" in (answer.error or "")
    full = bench.client.Answer(due_s=1.0, sent_s=1.0, done_s=1.004, status=503, error="server_full")
    figures = bench.scenario.figures([full, answer])
    assert (figures["refused"], len(figures["errors"])) == (1, 1)


async def test_a_client_that_leaves_frees_the_server(bench: ModuleType, running: Any, server: Server) -> None:
    ask = dataclasses.replace(asks(bench, 1, 8, 8000)[0], leave_after_s=0.3)
    answer = await bench.client.exchange(running.endpoint, ask)
    assert answer.left and not answer.complete and answer.error is None
    await asyncio.to_thread(server.wait_idle, 20.0)  # long before the answer would have ended by itself


async def test_the_open_loop_waits_for_nobody(bench: ModuleType) -> None:
    all_came = asyncio.Barrier(6)

    async def answer_when_all_have_come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        await all_came.wait()
        event = {"choices": [{"text": "a"}], "usage": {"prompt_tokens": 8, "completion_tokens": 1}}
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n")
        writer.close()

    async with await asyncio.start_server(answer_when_all_have_come, "127.0.0.1", 0) as listening:
        endpoint = bench.client.Endpoint(listening.sockets[0].getsockname()[1], "smollm2")
        latest_s = []
        for _ in range(3):  # one of them without a moment in which the machine stands still
            async with asyncio.timeout(60):
                answers = await bench.load.open_loop(endpoint, asks(bench, 6, 8, 1), [0.02 * n for n in range(6)])
            assert all(answer.complete and answer.due_s <= answer.sent_s for answer in answers)
            latest_s.append(max(answer.sent_s - answer.due_s for answer in answers))
    assert min(latest_s) < 0.2


def test_arrivals_are_poisson_and_repeat_with_the_seed(bench: ModuleType) -> None:
    times = bench.load.arrivals_s(200.0, 50.0, seed=3)
    assert times == bench.load.arrivals_s(200.0, 50.0, seed=3) != bench.load.arrivals_s(200.0, 50.0, seed=4)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # an exponential's deviation is its mean


def test_prompts_repeat_for_contestants_and_differ_between_scenarios(bench: ModuleType) -> None:
    scale = bench.scenario.Scale(seed=5)
    seeds = {scale.of(name, repeat).seed for name in ("c1", "c8") for repeat in range(3)}
    assert len(seeds) == 6
    first, second = bench.load.prompts(2, 40, scale.of("c1", 0).seed, shared=28)
    assert (first, second) == tuple(bench.load.prompts(2, 40, scale.of("c1", 0).seed, shared=28))
    assert first[:28] == second[:28] and first[28:] != second[28:]


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_an_answer_is_understood_wherever_it_was_cut(bench: ModuleType, piece: int) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    end = {"choices": [{"text": "", "finish_reason": "length"}]}  # came with the token before it: no event of its own
    events = [{"choices": [{"text": "a\nb"}]}, {"choices": [{"text": "é"}]}, end, {"choices": [], "usage": usage}]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    chunks = [body[:30], body[30:31], body[31:]]  # events do not end where chunks do
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    places: list[int] = []  # of the body's bytes in `raw`
    for chunk in chunks:
        raw += b"%x\r\n" % len(chunk)
        places += range(len(raw), len(raw) + len(chunk))
        raw += chunk + b"\r\n"
    raw += b"0\r\n\r\n"
    talk = type("Talk", (), {"parts": [raw[at : at + piece] for at in range(0, len(raw), piece)]})
    talk.times_s = [float(number) for number in range(len(talk.parts))]
    answer = bench.client.Answer(0.0, 0.0, 0.0)
    bench.client._understand(answer, bench.client.Ask([1, 2, 3], 2), talk)
    assert answer.complete and (answer.output_tokens, answer.cached_tokens) == (2, 1)
    # An event has arrived when its line has: the piece that holds the end of the line.
    for event, at_s in zip(events[:2], answer.events_s, strict=True):
        line = json.dumps(event).encode()
        assert at_s == places[body.index(line) + len(line)] // piece


def test_a_stream_that_ends_in_an_error_event_is_an_error(bench: ModuleType) -> None:
    events = [{"choices": [{"text": "a"}]}, {"error": {"message": "too late", "code": "deadline_exceeded"}}]
    raw = b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events)
    talk = type("Talk", (), {"parts": [raw], "times_s": [1.0]})
    answer = bench.client.Answer(0.0, 0.0, 0.0)
    bench.client._understand(answer, bench.client.Ask([1], 2), talk)
    assert (answer.error, len(answer.events_s)) == ("deadline_exceeded", 1)


def test_percentiles_and_slopes_agree_with_numpy(bench: ModuleType) -> None:
    values = np.random.default_rng(1).lognormal(size=137)
    for percent in (0, 50, 90, 99, 100):
        assert bench.figures.percentile(list(values), percent) == pytest.approx(np.percentile(values, percent))
    seconds = np.arange(20) * 0.5
    samples = list(zip(seconds, 3.0 + 0.25 * seconds, strict=True))
    assert bench.figures.slope_per_minute(samples) == pytest.approx(15.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        bench.figures.percentile([], 50)


def test_bars_compare_the_median_and_a_ratio_says_how_much_better_ours_is(bench: ModuleType) -> None:
    def runs(rates: list[float], firsts_ms: list[float]) -> list[dict[str, Any]]:
        pairs = zip(rates, firsts_ms, strict=True)
        return [{"decode_tokens_per_s": rate, "ttft_ms": {"p50": first}} for rate, first in pairs]

    measured = {"topmast": runs([100, 120, 110], [50, 40, 60]), "llama.cpp": runs([100, 100, 100], [100, 100, 90])}
    outcomes = {each["text"]: each for each in bench.bars.judge("c1", measured, fast_bfloat16=True)}
    decode = outcomes["decode_tokens_per_s against llama.cpp"]
    assert (decode["median"], decode["least"], decode["most"], decode["met"]) == (1.1, 1.0, 1.2, True)
    assert outcomes["ttft_ms.p50 against llama.cpp"]["median"] == 2.0  # half the time is twice as good
    assert outcomes["decode_tokens_per_s against vllm"]["met"] is None  # it did not take part
    (slow,) = (each for each in bench.bars.judge("c1", measured, fast_bfloat16=False) if each["met"] is False)
    assert slow["wanted"] == ">= 1.2"
    for each in measured["llama.cpp"]:
        each["in_process"] = {"decode_tokens_per_s": 200.0}  # a peer's better way counts
    assert bench.bars.ratios(measured, "llama.cpp", "decode_tokens_per_s") == [0.5, 0.6, 0.55]


@pytest.mark.parametrize("name", ["c8", "prefill512", "prefix", "overload", "longprefill", "neighbours", "soak"])
async def test_a_scenario_measures_its_bars_and_leaves_the_server_idle(
    bench: ModuleType, running: Any, server: Server, name: str
) -> None:
    scenario = next(each for each in bench.run.SCENARIOS if each.name == name)
    figures = bench.run.derived(await scenario.run(running, bench.scenario.Scale(0.002).of(name, 0)))
    assert figures["errors"] == {} and figures["complete"] > 0
    for bar in bench.bars.BARS:
        if bar.scenario == name and bar.figure != "refusal_ms.p99":  # a short overload need not fill the queue
            assert bench.figures.look_up(figures, bar.figure) is not None, bar
    if name == "soak":
        assert figures["clean"] == 1.0, figures
    await asyncio.to_thread(server.wait_idle)


def test_the_command_measures_writes_and_judges(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "serving.py"), "--only", "start", "c1", "--repeats", "1"]
    command += ["--scale", "0.001", "--results", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    reports = {report["scenario"]: report for report in map(json.loads, (p.read_text() for p in _results(tmp_path)))}
    assert set(reports) == {"start", "c1"}
    (start,) = reports["start"]["bars"]
    assert start["met"] is not None and start["median"] == reports["start"]["runs"]["topmast"][0]["first_token_s"]
    assert reports["c1"]["scale"] == 0.001 and reports["c1"]["machine"]["cores"] >= 1
    pictures = [ElementTree.parse(path) for path in tmp_path.glob("*.svg")]
    assert len(pictures) == 2
    assert all(picture.findall(".//{http://www.w3.org/2000/svg}rect") for picture in pictures)


def _results(folder: Path) -> list[Path]:
    return sorted(folder.glob("serving-*.json"))


def test_a_server_that_failed_or_refused_is_compared_with_nobody(bench: ModuleType) -> None:
    whole = {"output_tokens_per_s": 100.0, "requests": 8, "complete": 8}
    runs = {"topmast": [whole] * 3, "vllm": [{**whole, "complete": 7}, {"failed": "out of memory"}, whole]}
    assert bench.bars.ratios(runs, "vllm", "output_tokens_per_s") == [1.0]


def test_the_best_setting_of_a_peer_counts_in_every_repeat(bench: ModuleType) -> None:
    def runs(*firsts_ms: float) -> list[dict[str, Any]]:
        return [{"ttft_ms": {"p50": each}} for each in firsts_ms]

    measured = {"topmast": runs(50, 50), "vllm": runs(100, 200), "vllm (all cores)": runs(150, 75)}
    assert bench.bars.ratios(measured, "vllm", "ttft_ms.p50") == [2.0, 1.5]
    assert set(bench.bars.all_ratios(measured)) == {"vllm"}


def test_a_command_is_shown_without_the_folders_of_this_machine(bench: ModuleType) -> None:
    environment = {"PYTHONPATH": "/a:/b", "CACHE": "/home/me/cache", "THREADS": "2"}
    command = bench.process.Command(("/x/bin/python", "-m", "serve", "package://llm"), "m", environment)
    assert command.shown() == "CACHE=cache THREADS=2 python -m serve package://llm"


def test_a_server_that_cannot_start_says_why_and_is_stopped(bench: ModuleType, tmp_path: Path) -> None:
    command = bench.contestants.ours("--dtype", "float7")
    began_s = time.monotonic()
    with pytest.raises(bench.process.StartError, match="invalid choice: 'float7'"):
        asyncio.run(bench.process.start(command, tmp_path / "log"))
    assert time.monotonic() - began_s < command.start_timeout_s / 2  # its end was seen, not waited for


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "c2"], "there is no scenario c2; there are c1, c8"),
        (["--peers", "tgi"], "'tgi' is no peer; there are vllm, llama.cpp"),
        (["--scale", "2"], "--scale is above 0 and at most 1"),
    ],
)
def test_a_wrong_flag_gets_a_sentence(arguments: list[str], words: str) -> None:
    run = subprocess.run([sys.executable, str(BENCH / "serving.py"), *arguments], capture_output=True, text=True)
    assert run.returncode == 2 and words in run.stderr and "Traceback" not in run.stderr


def test_the_tables_of_the_docs_are_those_of_the_results(bench: ModuleType, tmp_path: Path) -> None:
    committed = REPOSITORY / "docs" / "performance.md"
    copy = tmp_path / "performance.md"
    copy.write_text(committed.read_text())
    bench.table.write(copy, BENCH / "results")
    assert copy.read_text() == committed.read_text(), "run: python bench/serving.py --table"
    copy.write_text("no markers")
    with pytest.raises(ValueError, match="lost its markers"):
        bench.table.write(copy, BENCH / "results")
