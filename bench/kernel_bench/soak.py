"""Looks for races: many calls back to back on two streams, and one of each kernel under compute-sanitizer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kernel_bench.vocabulary import Filters, make
from topmast_kernels.gpu.filtered import Filtered, sample_filtered
from topmast_kernels.gpu.filtered_workspace import FilteredWorkspace
from topmast_kernels.gpu.greedy import Greedy, greedy
from topmast_kernels.gpu.matmul import MatmulWorkspace, matmul
from topmast_kernels.gpu.sample import Sampled, sample
from topmast_kernels.gpu.workspace import Workspace
from topmast_kernels.twin.matmul import QuantisedWeight

CALLS = 100_000
ROWS = 3


@dataclass(frozen=True)
class Runner:
    """A kernel that counts arrivals, with memory of its own: what it writes, and what must be zero between calls."""

    name: str
    call: Callable[[], object]
    results: tuple[Tensor, ...]
    counters: tuple[Tensor, ...]


def runners(
    device: torch.device, seed: int, vocabulary: int = 32000, outputs: int = 4096, depth: int = 4096
) -> Iterator[Runner]:
    given = make("llm-like", ROWS, vocabulary, Filters(50, 0.9), device, seed)
    logits, keys = given.logits, (given.seeds, given.positions)
    space, out = Workspace.make(ROWS, vocabulary, device=device), Greedy.empty(ROWS, device)
    yield Runner("greedy", lambda: greedy(logits, out=out, workspace=space), (*out,), (space.arrivals,))
    other, drawn = Workspace.make(ROWS, vocabulary, device=device), Sampled.empty(ROWS, device)
    yield Runner("sample", lambda: sample(logits, *keys, out=drawn, workspace=other), (*drawn,), (other.arrivals,))
    top_k, top_p = given.tensors()
    for label, wish in (("top-k, top-p", {"top_k": top_k, "top_p": top_p}), ("top-p", {"top_p": top_p})):
        yield _filtered(label, logits, keys, wish)
    generator = torch.Generator(device).manual_seed(seed)
    dense = torch.randn(outputs, depth, generator=generator, device=device)
    weight, x = QuantisedWeight.of(dense, torch.int8), dense[:ROWS].bfloat16()
    scratch, product = MatmulWorkspace.make(ROWS, *dense.shape, device), x.new_empty((ROWS, outputs))
    call = partial(matmul, x, weight, out=product, workspace=scratch)
    yield Runner("weight-only product", call, (product,), (scratch.arrivals,))


def _filtered(label: str, logits: Tensor, keys: tuple[Tensor, Tensor], wish: dict[str, Tensor | None]) -> Runner:
    space = FilteredWorkspace.make(*logits.shape, device=logits.device)
    out = Filtered.empty(len(logits), logits.device)
    counters = (space.arrivals, space.taken, space.masses)
    return Runner(label, lambda: sample_filtered(logits, *keys, **wish, out=out, workspace=space), (*out,), counters)


def soak(device: torch.device, calls: int = CALLS, **sizes: int) -> int:
    """Each counter-based kernel `calls` times, alternating between two streams; returns 1 if a result ever differed.

    sizes: as of `runners`.
    """
    streams = [torch.cuda.Stream(device), torch.cuda.Stream(device)] if device.type == "cuda" else [None, None]
    bad = 0
    for pair in zip(runners(device, 1, **sizes), runners(device, 2, **sizes), strict=True):
        first = []
        for runner in pair:
            runner.call()
            first.append([result.clone() for result in runner.results])
        if device.type == "cuda":
            torch.cuda.synchronize()
        differs = torch.zeros(2, dtype=torch.int64, device=device)
        for n in range(calls):
            which = n % 2
            with torch.cuda.stream(streams[which]):
                pair[which].call()
                if n % 100 < 2:  # comparing takes longer than the call; most calls follow each other directly
                    for result, expected in zip(pair[which].results, first[which], strict=True):
                        differs[which] += (result != expected).any()
        if device.type == "cuda":
            torch.cuda.synchronize()
        left = any(bool(counter.any()) for runner in pair for counter in runner.counters)
        wrong = int(differs.sum()) > 0 or left
        bad += wrong
        said = f"{int(differs.sum())} results differed; counters {'not ' if left else ''}back at zero"
        print(f"{pair[0].name}: {calls} calls on two streams, {said}", flush=True)
    return 1 if bad else 0


def sanitize(script: Path) -> int:
    """memcheck and racecheck of `--one-of-each`; returns the worst exit status, 2 where the tool is missing."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        print("compute-sanitizer is not on this machine; it comes with the CUDA toolkit.", file=sys.stderr)
        return 2
    status = 0
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "1", sys.executable, str(script), "--one-of-each"]
        print(" ".join(command), flush=True)
        status = max(status, subprocess.run(command, check=False).returncode)
    return status
