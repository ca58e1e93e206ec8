"""The metrics page: its names are an interface, and its numbers are true."""

from __future__ import annotations

import json
import socket
import time

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

from server.serving import PATIENCE_S, Server, crowding

NAMES = [
    "http_requests",
    "topmast_cancelled_sequences",
    "topmast_deadlines",
    "topmast_kv_integrity_failures",
    "topmast_max_num_seqs",
    "topmast_queued_prompt_tokens",
    "topmast_ready",
    "topmast_refused_tokens",
    "topmast_start_seconds",
    "topmast_step_age_seconds",
    "topmast_step_seconds",
    "topmast_steps",
    "vllm:admission_rejections",
    "vllm:cache_config_info",
    "vllm:e2e_request_latency_seconds",
    "vllm:generation_tokens",
    "vllm:gpu_cache_usage_perc",
    "vllm:inter_token_latency_seconds",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prefix_cache_hits",
    "vllm:prefix_cache_queries",
    "vllm:prompt_tokens",
    "vllm:request_decode_time_seconds",
    "vllm:request_generation_tokens",
    "vllm:request_inference_time_seconds",
    "vllm:request_params_max_tokens",
    "vllm:request_params_n",
    "vllm:request_prefill_time_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_queue_time_seconds",
    "vllm:request_success",
    "vllm:request_time_per_output_token_seconds",
    "vllm:time_to_first_token_seconds",
]


def samples(server: Server) -> dict[str, float]:
    """Value by sample name, summed over labels."""
    page = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0) + sample.value
    return values


def test_names_never_change_unnoticed(server: Server) -> None:
    page = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    families = list(text_string_to_metric_families(page))
    ours = {family.name for family in families if not family.name.startswith("process_")}
    assert sorted(ours) == NAMES
    for family in families:
        if family.name.startswith("vllm:"):
            assert all(sample.labels["model_name"] == "smollm2" for sample in family.samples)
            assert all(sample.labels["engine"] == "0" for sample in family.samples)


def test_counters_count_what_was_done(server: Server, client: openai.OpenAI) -> None:
    server.wait_idle()
    before = samples(server)
    answer = client.completions.create(
        model="smollm2", prompt=[5, 6, 7, 8], max_tokens=10, n=2, extra_body={"ignore_eos": True}
    )
    server.wait_idle()
    after = samples(server)
    assert answer.usage is not None and answer.usage.completion_tokens == 20
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["vllm:prompt_tokens_total"] == 4
    assert grown["vllm:generation_tokens_total"] == 20
    assert grown["vllm:request_success_total"] == 2
    assert grown["vllm:time_to_first_token_seconds_count"] == 2
    assert grown["vllm:inter_token_latency_seconds_count"] == 18
    assert grown["vllm:e2e_request_latency_seconds_count"] == 2
    assert grown["vllm:request_queue_time_seconds_count"] == grown["vllm:request_prefill_time_seconds_count"] == 2
    assert 0 < grown["vllm:request_prefill_time_seconds_sum"] < grown["vllm:request_inference_time_seconds_sum"]
    assert grown["vllm:request_inference_time_seconds_sum"] <= grown["vllm:e2e_request_latency_seconds_sum"]
    assert grown["vllm:prefix_cache_queries_total"] == 8
    assert after["vllm:num_requests_running"] == after["vllm:kv_cache_usage_perc"] == 0
    assert after["topmast_ready"] == 1


def test_engine_time_is_told_by_part(server: Server, client: openai.OpenAI) -> None:
    def by_part() -> dict[str, float]:
        families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text)
        (family,) = (family for family in families if family.name == "topmast_step_seconds")
        return {sample.labels["part"]: sample.value for sample in family.samples}

    before, began_s = by_part(), time.monotonic()
    client.completions.create(model="smollm2", prompt="x", max_tokens=20, extra_body={"ignore_eos": True})
    server.wait_idle()
    took_s = time.monotonic() - began_s
    grown = {part: seconds - before[part] for part, seconds in by_part().items()}
    assert grown.keys() == {"schedule", "forward", "sample", "post"}
    assert all(seconds > 0 for seconds in grown.values()), grown
    assert grown["forward"] < sum(grown.values()) < took_s


def test_the_page_is_quick_while_the_engine_is_busy(server: Server) -> None:
    # Prompts for much longer than it takes to look; whoever asked leaves when the test has seen enough.
    long = [[100 + (number + 7 * place) % 40000 for place in range(8000)] for number in range(2)]
    body = {"model": "smollm2", "prompt": long, "max_tokens": 1, "stream": True}
    host, port = server.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    crowd, took_ms = crowding(), []
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE_S) as asking,
        httpx.Client(timeout=PATIENCE_S) as scraper,
    ):
        asking.sendall(head + content)
        server.wait_work("kv_tokens_used", 1)
        for _ in range(20):
            began_s = time.perf_counter()
            for route in ("metrics", "health"):
                assert scraper.get(f"{server.url}/{route}").status_code == 200
            took_ms.append(1000 * (time.perf_counter() - began_s))
        assert server.work()["waiting_prompt_tokens"] > 0, "the prompts were computed before the test had looked"
    server.wait_idle()
    print(f"\nmetrics and health while prefilling: median {sorted(took_ms)[10]:.1f} ms, worst {max(took_ms):.1f} ms")
    assert sorted(took_ms)[10] < 100 * max(crowd, crowding())
