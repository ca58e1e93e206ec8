"""Where a forward pass spends its time: its parts alone, beside the whole of it. In process, without HTTP.

    python bench/forward.py        decode steps of 1, 8 and 32 sequences, and prompts

Writes bench/results/forward-CPU.json, which `python bench/serving.py --table` puts into docs/performance.md. Whole and
parts take turns, and medians count, so that a machine that gets slower or faster moves all of them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROUNDS = 25
# Name, sequences, tokens that each has already, tokens that each brings.
CASES = (
    ("1 decodes", 1, 160, 1),
    ("8 decode", 8, 160, 1),
    ("32 decode", 32, 160, 1),
    ("prompt of 128", 1, 0, 128),
    ("prompt of 512", 1, 0, 512),
    ("32 decode beside 128 of a prompt", 0, 0, 0),
)
OTHERWISE = "products if exact"  # not a part of the pass: what `--dtype float32` would take
BLOCK, BLOCKS, LONGEST = 32, 240, 1024


def main() -> int:
    """Measure every case, print it, and write the JSON."""
    from serving_bench import machine

    model = load_model()
    cases = {name: measure(model, batch_of(*sizes)) for name, *sizes in CASES}
    for name, parts in cases.items():
        print(f"{name:34}", ", ".join(f"{part} {ms:.2f} ms" for part, ms in parts.items()), flush=True)
    report = {"machine": machine.describe(), "rounds": ROUNDS, "cases": cases}
    path = HERE / "results" / f"forward-{machine.slug()}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def load_model() -> Any:
    """SmolLM2 on the compiled kernels, as `topmast serve` has it."""
    from serving_bench.contestants import model_file

    from topmast_server.models.kernels import load_kernels
    from topmast_server.models.llama import Llama
    from topmast_server.models.precision import Precision
    from topmast_server.weights.load import load_weights

    weights = load_weights(model_file(), lambda done, total: None)
    model = Llama(weights, Precision.FLOAT32, BLOCKS, BLOCK, LONGEST, kv_dtype=Precision.FLOAT16)
    model.use(load_kernels())
    return model


def batch_of(sequences: int, start: int, count: int) -> Any:
    """So many equal sequences; without any, the mixed step."""
    import numpy as np

    from topmast_server.models.batch import Batch, Span

    wanted = [(start, count)] * sequences or [*[(160, 1)] * 32, (0, 128)]
    spans, rows = [], 0
    for line, (first, tokens) in enumerate(wanted):
        spans.append(Span(rows, first, tokens, line))
        rows += tokens
    width = max(-(-(first + tokens) // BLOCK) for first, tokens in wanted)
    tables = np.arange(len(wanted) * width, dtype=np.int32).reshape(len(wanted), width)
    positions = np.concatenate([np.arange(span.start, span.start + span.count) for span in spans])
    ends = np.array([span.row + span.count - 1 for span in spans])
    return Batch(np.random.default_rng(0).integers(100, 49_000, rows), positions, spans, tables, ends)


def measure(model: Any, batch: Any) -> dict[str, float]:
    """Median milliseconds of the whole and of each part."""
    calls: dict[str, Callable[[], Any]] = {"whole": lambda: model.forward(batch), **parts_of(model, batch)}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + 2):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn >= 2:
                taken[name].append((time.perf_counter() - started) * 1e3)
    found = {name: round(statistics.median(times), 3) for name, times in taken.items()}
    otherwise_ms = found.pop(OTHERWISE)
    found["rest"] = round(2 * found["whole"] - sum(found.values()), 3)
    return {**found, OTHERWISE: otherwise_ms}


def parts_of(model: Any, batch: Any) -> dict[str, Callable[[], Any]]:
    """Calls of the kernels that the forward pass consists of, with the same shapes, weights and cache."""
    import numpy as np

    from topmast_kernels.cpu.attention import attend, plan_tasks, store_kv
    from topmast_kernels.cpu.layout import Paged
    from topmast_kernels.cpu.linear import linear
    from topmast_kernels.cpu.rows import add_norm, silu_multiply

    shape, layout, tables, threads = model.shape, model.layout, model._tables, model.kernels.threads
    scratch = model.kernels.new_scratch(batch.rows, shape.hidden, layout, shape.mlp)
    for values in scratch:
        values[:] = np.random.default_rng(1).standard_normal(values.shape)
    paged = Paged(batch.span_table(), batch.tables, model.cosines, model.sines, model._cache)
    logits = np.empty((len(batch.sampled_rows), shape.vocabulary), np.float32)

    def products(exact: bool) -> None:
        for layer in range(shape.layers):
            linear(scratch.normed, tables.attention_in[layer], exact, threads, scratch.qkv)
            linear(scratch.attended, tables.attention_out[layer], exact, threads, scratch.added)
            linear(scratch.normed, tables.mlp_in[layer], exact, threads, scratch.gate_up)
            linear(scratch.gated, tables.mlp_out[layer], exact, threads, scratch.added)

    def attention() -> None:
        tasks = plan_tasks(paged, layout, threads)
        for layer in range(shape.layers):
            store_kv(scratch.qkv, paged, layout, layer, False)
            attend(tasks, np.zeros(1, np.int64), scratch.qkv, paged, layout, layer, threads, scratch.attended)

    def rows() -> None:
        for layer in range(shape.layers):
            for norm in range(2):
                add_norm(scratch.added, scratch.added, False, model.norms[layer, norm], tables.epsilon, scratch.normed)
            silu_multiply(scratch.gate_up, scratch.gated)

    def head() -> None:
        linear(scratch.normed[: len(logits)], tables.head, False, threads, logits)

    own = {"products": partial(products, False), "head": head, "attention": attention, "norms and SiLU": rows}
    return {**own, OTHERWISE: partial(products, True)}


if __name__ == "__main__":
    root = HERE.parent
    sys.path[:0] = [str(HERE), *(str(root / part) for part in ("kernels", "server"))]
    if "TOPMAST_BENCH_THREADS" not in os.environ:  # numeric libraries read their settings when they are loaded
        from topmast_server.engine.threads import thread_environment

        settings = thread_environment() | {"TOPMAST_BENCH_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], settings)
    sys.exit(main())
