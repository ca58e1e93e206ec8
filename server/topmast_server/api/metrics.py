"""The metrics page: vllm:* names, so that every gateway, dashboard and autoscaler that knows vLLM knows us.

Names are an interface, kept by a snapshot test. Gauges are read from the engine's last report when the page is asked
for; nothing here waits for the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from topmast_server.api.generation import Choice
    from topmast_server.api.service import Service

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LABELS: Final = ("model_name", "engine")
# Finer at the low end than vLLM's, whose floor of 10 ms hides small models.
_TOKEN_S: Final = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1, 2.5, 10, 80)
_FIRST_S: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80, 160, 640)
_REQUEST_S: Final = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 480, 1920)
_LENGTHS: Final = tuple(mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5))
_COUNTS: Final = (1, 2, 5, 10, 20)
_STEP_PARTS: Final = ("schedule", "forward", "sample", "post")
# What the engine counts: metric, meaning, and its name in engine/stats.py.
_COUNTERS: Final = (
    ("vllm:generation_tokens", "Tokens made.", "output_tokens_total"),
    ("vllm:num_preemptions", "Sequences recomputed.", "preemptions_total"),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the cache.", "prefix_cache_queries_total"),
    ("vllm:prefix_cache_hits", "Prompt tokens that were found there.", "prefix_cache_hits_total"),
    ("topmast_deadlines", "Sequences that ended because their time was up.", "deadline_total"),
    ("topmast_kv_integrity_failures", "KV pools found inconsistent and rebuilt.", "integrity_failures_total"),
)


class Metrics:
    """Histograms and counters of the requests; also the Observer of every generation."""

    def __init__(self, model_name: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the page and nobody reads them
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": "0"}
        ProcessCollector(registry=self.registry)
        self.first_token_s = self._histogram("time_to_first_token_seconds", "Arrival to first token.", _FIRST_S)
        self._between_s = self._histogram("inter_token_latency_seconds", "Between two tokens.", _TOKEN_S)
        self._per_token_s = self._histogram(
            "request_time_per_output_token_seconds", "Mean between two tokens of a request.", _TOKEN_S
        )
        self._queue_s = self._histogram("request_queue_time_seconds", "Submitted to scheduled.", _FIRST_S)
        self._prefill_s = self._histogram("request_prefill_time_seconds", "Scheduled to first token.", _FIRST_S)
        self._inference_s = self._histogram("request_inference_time_seconds", "Scheduled to last token.", _REQUEST_S)
        self._decode_s = self._histogram("request_decode_time_seconds", "First to last token.", _REQUEST_S)
        self._whole_s = self._histogram("e2e_request_latency_seconds", "Arrival to last token.", _REQUEST_S)
        self._prompt = self._histogram("request_prompt_tokens", "Prompt tokens of a request.", _LENGTHS)
        self._answer = self._histogram("request_generation_tokens", "Tokens made for a sequence.", _LENGTHS)
        self._max_tokens = self._histogram("request_params_max_tokens", "Allowed answer tokens.", _LENGTHS)
        self._n = self._histogram("request_params_n", "Choices asked for.", _COUNTS)
        self._finished = Counter(
            "vllm:request_success",
            "Sequences that ended with a reason.",
            (*_LABELS, "finished_reason"),
            registry=self.registry,
        )
        self._rejected = Counter(
            "vllm:admission_rejections",
            "Requests turned away at the door.",
            (*_LABELS, "reason"),
            registry=self.registry,
        )
        self._cancelled = Counter(
            "topmast_cancelled_sequences",
            "Sequences that were ended early.",
            (*_LABELS, "cause"),
            registry=self.registry,
        )
        self._refused = Counter(
            "topmast_refused_tokens",
            "Calls at closed doors, by what was wrong with their token.",
            (*_LABELS, "reason"),
            registry=self.registry,
        )
        self._http = Counter(
            "http_requests", "HTTP requests answered.", ("handler", "method", "status"), registry=self.registry
        )
        for reason in ("stop", "length"):
            self._finished.labels(**self._labels, finished_reason=reason)

    def token(self, since_s: float, at_s: float, *, first: bool) -> None:
        """See Observer."""
        (self.first_token_s if first else self._between_s).observe(at_s - since_s)

    def finished(self, choice: Choice, arrived_s: float, at_s: float) -> None:
        """See Observer."""
        self._finished.labels(**self._labels, finished_reason=choice.finish).inc()
        self._answer.observe(choice.tokens)
        self._whole_s.observe(at_s - arrived_s)
        decode_s = at_s - (choice.first_at_s or at_s)
        self._decode_s.observe(decode_s)
        if choice.timing is not None:
            self._queue_s.observe(choice.timing.queued_s)
            self._prefill_s.observe(choice.timing.prefill_s)
            self._inference_s.observe(choice.timing.prefill_s + decode_s)
        if choice.tokens > 1:
            self._per_token_s.observe(decode_s / (choice.tokens - 1))

    def accepted(self, prompt_tokens: int, max_tokens: int, n: int) -> None:
        """A request passed the door."""
        self._prompt.observe(prompt_tokens)
        self._max_tokens.observe(max_tokens)
        self._n.observe(n)

    def rejected(self, reason: str) -> None:
        """A request did not."""
        self._rejected.labels(**self._labels, reason=reason).inc()

    def cancelled(self, cause: str, sequences: int) -> None:
        """Sequences that nobody reads any more."""
        if sequences:
            self._cancelled.labels(**self._labels, cause=cause).inc(sequences)

    def refused_token(self, reason: str) -> None:
        """Somebody was not let in."""
        self._refused.labels(**self._labels, reason=reason).inc()

    def answered(self, handler: str, method: str, status: int) -> None:
        """One HTTP answer."""
        self._http.labels(handler, method, str(status)).inc()

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"vllm:{name}", text, _LABELS, registry=self.registry, buckets=buckets)
        return histogram.labels(**self._labels)


class EngineReport(Collector):
    """What the engine last said of itself, read at the time of the scrape."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._values = (service.names[0], "0")

    def collect(self) -> Iterable[Metric]:
        """One family per number; see engine/stats.py for their meaning."""
        service = self._service
        stats = service.supervisor.stats
        page = service.supervisor.progress.read()
        blocks = stats.get("kv_blocks_total", 0)
        used = stats.get("kv_blocks_used", 0) / blocks if blocks else 0.0
        yield self._gauge("vllm:num_requests_running", "Sequences in the batch.", stats.get("running", 0))
        yield self._gauge("vllm:num_requests_waiting", "Sequences that wait.", stats.get("waiting", 0))
        yield self._gauge("vllm:kv_cache_usage_perc", "KV blocks in use, 0 to 1.", used)
        yield self._gauge("vllm:gpu_cache_usage_perc", "The older name of kv_cache_usage_perc.", used)
        yield self._counter("vllm:prompt_tokens", "Prompt tokens received.", service.input_tokens)
        for name, text, key in _COUNTERS:
            yield self._counter(name, text, stats.get(key, 0))
        capacity = service.capacity or {}
        yield self._gauge("topmast_max_num_seqs", "Sequences that may run at once.", capacity.get("max_num_seqs", 0))
        cache = GaugeMetricFamily(
            "vllm:cache_config_info", "KV geometry.", labels=(*_LABELS, "block_size", "num_gpu_blocks")
        )
        cache.add_metric((*self._values, str(int(stats.get("block_size", 0))), str(int(blocks))), 1)
        yield cache
        yield self._gauge("topmast_ready", "1 while new requests are welcome.", float(service.ready))
        yield self._gauge("topmast_queued_prompt_tokens", "Prompt tokens not computed yet.", service.queued_tokens)
        yield self._gauge("topmast_step_age_seconds", "Since the engine's last sign of life.", page.age_s())
        yield self._counter("topmast_steps", "Engine steps finished.", page.steps)
        start = GaugeMetricFamily("topmast_start_seconds", "How long the start took.", labels=(*_LABELS, "phase"))
        for name, value in service.start_seconds.items():
            start.add_metric((*self._values, name.removesuffix("_s")), value)
        yield start
        parts = CounterMetricFamily("topmast_step_seconds", "Where engine time went.", labels=(*_LABELS, "part"))
        for part in _STEP_PARTS:
            parts.add_metric((*self._values, part), stats.get(f"{part}_s_total", 0))
        yield parts

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=_LABELS)
        family.add_metric(self._values, value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=_LABELS)
        family.add_metric(self._values, value)
        return family
