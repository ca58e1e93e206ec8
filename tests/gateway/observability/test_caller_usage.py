"""The page of callers' usage: Prometheus reads it, whatever names there are, and nobody waits for it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gateway.lab.growth import assert_stops_nobody
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.caller_usage import OTHERS, CallerUsage, UsageRecord
from topmast_gateway.observability.exposition import pages

ODD = 'team "a"\\b\nc'


def record(caller: str, model: str = "ns/m") -> UsageRecord:
    return UsageRecord(0.0, "r", caller, model, TokenUsage(10, 4, 3, exact=True), 200, "answered", 1.0, 0.0)


async def samples(usage: CallerUsage) -> dict[tuple[str, ...], float]:
    page = b"".join([piece async for piece in pages(usage.lines())]).decode()
    families = text_string_to_metric_families(page)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


async def test_prometheus_reads_every_count_of_every_name() -> None:
    usage = CallerUsage(lambda: {"ns/m": 7})
    usage.count(record("alice"))
    usage.count(record("alice"))
    usage.count(record(ODD))
    found = await samples(usage)
    assert found["topmast_gateway_caller_requests_total", "alice", "ns/m", "answered"] == 2
    assert found["topmast_gateway_tokens_total", "alice", "ns/m", "prompt"] == 20
    assert found["topmast_gateway_tokens_total", ODD, "ns/m", "cached"] == 4
    assert found["topmast_gateway_queue_requests", "ns/m"] == 7


async def test_five_thousand_callers_stop_nobody() -> None:
    """A scrape of them took two thirds of a second of the loop."""
    usage = CallerUsage(dict)
    for number in range(6000):
        usage.count(record(f"caller-{number}"))
    await assert_stops_nobody(lambda: pages(usage.lines()))
    assert len([name for name, *_ in await samples(usage) if name == "topmast_gateway_tokens_total"]) == 3 * 5001
    assert (await samples(usage))["topmast_gateway_caller_requests_total", OTHERS, OTHERS, "answered"] == 1000
