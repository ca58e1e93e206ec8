"""What engines report of their load, and what the gateway reads in it."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.engines import free_address
from gateway.lab.growth import assert_linear
from gateway.lab.stage import soon
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.load_report import LoadReport, parse_metrics
from topmast_gateway.routing.load_scraper import LARGEST_PAGE_BYTES, LoadScraper
from topmast_gateway.routing.model_table import Pod

PAGE = """# HELP vllm:num_requests_running Sequences in the batch.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m",engine="0"} 3.0
vllm:num_requests_waiting{model_name="m",engine="0"} 2.0
vllm:kv_cache_usage_perc{model_name="m",engine="0"} 0.25
topmast_max_num_seqs{model_name="m",engine="0"} 32.0
vllm:cache_config_info{block_size="32",engine="0",model_name="m",num_gpu_blocks="1000"} 1.0
vllm:num_requests_running_total{model_name="m"} 99.0
"""


def test_a_page_of_ours_is_understood() -> None:
    assert parse_metrics(PAGE) == LoadReport(running=3, waiting=2, kv_used=0.25, max_num_seqs=32, kv_tokens=32_000)


def test_a_page_of_vllm_lacks_the_slots_and_its_ranks_are_added_up() -> None:
    page = "\n".join(
        f'vllm:num_requests_{state}{{engine="{rank}",model_name="m"}} {rank + 1}'
        for state in ("running", "waiting")
        for rank in (0, 1)
    )
    assert parse_metrics(page) == LoadReport(running=3, waiting=3)


def test_a_page_that_counts_no_requests_is_no_report() -> None:
    assert parse_metrics("") is None
    assert parse_metrics('vllm:num_requests_running{engine="0"} 3') is None
    assert parse_metrics(PAGE.replace(" 3.0", " NaN")) is None and parse_metrics(PAGE.replace(" 2.0", " -1")) is None


def test_sizes_that_no_cache_has_are_not_taken() -> None:
    """Python refuses to read a number of 5000 digits, and whatever goes wrong here ends the gateway."""
    assert parse_metrics(PAGE.replace('"1000"', f'"{"9" * 5000}"')) == LoadReport(3, 2, 0.25, 32, None)


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running{",
        "vllm:num_requests_running{\n",
        'vllm:num_requests_running{a="}"} 1\n',
        "vllm:num_requests_running" + " " * 60,
        "vllm:cache_config_info{" + 'block_size="1",' * 20 + "} 1\n",
        "vllm:cache_config_info{" + "block_size=" * 20 + "} 1\n",
        "vllm:num_requests_waiting 1" + "0" * 40 + "\n",
        "topmast_max_num_seqs " + "9" * 30 + "\n",
        "{\n",
        "\n",
        "x",
    ],
)
def test_no_page_takes_long(line: str) -> None:
    """128 KiB of the first one took five seconds of the loop: the labels' end was looked for to the end of the page."""
    page = PAGE + "vllm:num_requests_running 1\nvllm:num_requests_waiting 1\n"
    assert_linear(lambda size: page + line * (size // len(line)), parse_metrics, LARGEST_PAGE_BYTES)


def test_a_label_may_hold_a_brace() -> None:
    page = PAGE.replace('model_name="m"', 'model_name="{m}"')
    assert parse_metrics(page) == LoadReport(running=3, waiting=2, kv_used=0.25, max_num_seqs=32, kv_tokens=32_000)


@given(st.text() | st.sampled_from(PAGE.splitlines()).flatmap(lambda line: st.text().map(lambda end: line + end)))
def test_no_page_is_an_error(page: str) -> None:
    parse_metrics(page)


async def test_a_silent_pod_does_not_hold_up_the_others_and_is_heard_when_it_speaks() -> None:
    pods = [Pod(str(n), "ns", f"pod-{n}", "ns/m", f"{free_address()}:8000") for n in range(3)]
    pages: dict[str, str] = {pods[0].uid: PAGE, pods[1].uid: "nothing"}
    asked: list[str] = []

    def answering(uid: str) -> web.Application:
        async def answer(_: web.Request) -> web.Response:
            asked.append(uid)
            if uid not in pages:
                await asyncio.sleep(3600)
            return web.Response(text=pages[uid])

        app = web.Application()
        app.router.add_get("/metrics", answer)
        return app

    loads, runners = EndpointLoads(), []
    for pod in pods:
        runners.append(web.AppRunner(answering(pod.uid), handler_cancellation=True, shutdown_timeout=0.1))
        await runners[-1].setup()
        await web.TCPSite(runners[-1], pod.address.split(":")[0], 8000).start()
    async with aiohttp.ClientSession() as client:
        start = time.monotonic()
        scraping = asyncio.create_task(LoadScraper(client, lambda: pods, loads).follow())
        await soon(lambda: loads.places(pods[0], 99) == 27 and pods[2].uid in asked, "the first pod's report")
        assert [loads.places(pod, 99) for pod in pods[1:]] == [99, 99]
        pages[pods[2].uid] = PAGE
        await soon(lambda: loads.places(pods[2], 99) == 27, "the report of the one that was silent")
        assert asked.count(pods[0].uid) <= 1 + (time.monotonic() - start) / 0.8  # about once a second
        scraping.cancel()
    for runner in runners:
        await runner.cleanup()


def test_the_servers_of_a_revision_keep_a_journal_when_one_of_them_shows_that_it_is_ours() -> None:
    """So a frozen pod is left within seconds also by a gateway that has not seen its journal yet."""
    ours, vllm = parse_metrics(PAGE), LoadReport(1, 0)
    assert ours is not None
    one, two, other = (Pod(str(n), "ns", f"pod-{n}", "ns/m", "", revision=revision) for n, revision in enumerate("aab"))
    loads = EndpointLoads()
    assert not loads.keeps_journal(one)
    loads.reported(one, ours)
    assert loads.keeps_journal(one) and loads.keeps_journal(two) and not loads.keeps_journal(other)
    loads.reported(other, vllm)
    assert not loads.keeps_journal(other)
    loads.forget({"2"})
    assert not loads.keeps_journal(one)
