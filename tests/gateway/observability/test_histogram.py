"""Histograms by model and revision: right for Prometheus, bounded in number, and written without stopping anybody."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.lab.growth import assert_stops_nobody
from topmast_gateway.observability.exposition import pages
from topmast_gateway.observability.histogram import RevisionHistogram
from topmast_gateway.observability.metrics import Metrics

BUCKETS = (0.1, 0.5, 2.0)


def samples(lines: list[str]) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families("".join(lines))
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30))
def test_every_value_is_in_its_bucket_and_all_above(values: list[float]) -> None:
    histogram = RevisionHistogram("h", "text", BUCKETS)
    for value in values:
        histogram.observe(("ns/m", 'r"1'), value)
    found = samples(list(histogram.lines()))
    for bound in BUCKETS:
        assert found["h_bucket", "ns/m", 'r"1', f"{bound:g}"] == sum(value <= bound for value in values)
    assert found["h_bucket", "ns/m", 'r"1', "+Inf"] == found["h_count", "ns/m", 'r"1'] == len(values)
    assert abs(found["h_sum", "ns/m", 'r"1'] - sum(values)) < 1e-9
    assert bisect_left(BUCKETS, BUCKETS[0]) == 0  # a bound belongs to its own bucket


def test_series_of_what_is_gone_for_ten_minutes_are_dropped_and_of_what_is_there_kept() -> None:
    metrics = Metrics()
    for revision in ("old", "new"):
        metrics.latency.first_token.observe(("ns/m", revision), 1.0)
    metrics.latency.queue.observe(("ns/gone", "r"), 1.0)
    for model in ("ns/m", "ns/gone", ""):
        metrics.requests.labels(model, "200").inc()
    metrics.keep(["ns/m", "ns/gone"], [("ns/m", "old"), ("ns/m", "new")], 0.0)
    for now in (300.0, 599.0):
        metrics.keep(["ns/m"], [("ns/m", "new")], now)
    assert len(samples(list(metrics.latency.first_token.lines()))) == 2 * 17
    metrics.keep(["ns/m"], [("ns/m", "new")], 601.0)
    found = samples(list(metrics.lines()))
    name = "topmast_gateway_time_to_first_token_seconds_count"
    assert {labels[2] for labels in found if labels[0] == name} == {"new"}
    counted = {labels[1] for labels in found if labels[0] == "topmast_gateway_requests_total"}
    assert counted == {"ns/m", ""} and not any("ns/gone" in labels for labels in found)


async def test_a_page_of_thousands_of_models_stops_nobody() -> None:
    metrics = Metrics()
    for number in range(2000):
        for histogram in metrics.latency.all:
            histogram.observe((f"ns/m{number}", "r1"), 0.1)
        metrics.requests.labels(f"ns/m{number}", "200").inc()
    await assert_stops_nobody(lambda: pages(metrics.lines()))
