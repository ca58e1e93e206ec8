"""How long a call takes: replays of a CUDA graph of several calls, after the caches were emptied and with them full.

Cold: each call in the graph has inputs of its own, and before each replay 512 MB are overwritten, which no cache keeps.
Warm: all calls share one set of inputs, and replays follow each other. Medians of at least 30 replays.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kernel_bench.problem import Call

REPLAYS = 30
FLUSH_BYTES = 512 << 20
MOST_CALLS = 20
REPLAY_MS = 10.0
INPUT_BYTES = 4 << 30  # of all sets of inputs together


@dataclass(frozen=True)
class Timing:
    median_us: float
    low_us: float
    high_us: float
    graph: bool


class Clock:
    """Measures on `device`; on a CPU it only calls, so that the benchmark can be tested without a GPU."""

    def __init__(self, device: torch.device, replays: int = REPLAYS) -> None:
        self.device = device
        self.replays = replays
        self.on_gpu = device.type == "cuda"
        size = FLUSH_BYTES if self.on_gpu else 1
        self._flush = torch.empty(size, dtype=torch.int8, device=device)

    def calls_for(self, bytes_moved: int) -> int:
        """How many sets of inputs fit the benchmark's share of memory, at least 2 and at most 20."""
        return max(2, min(MOST_CALLS, INPUT_BYTES // max(bytes_moved, 1))) if self.on_gpu else 1

    def affordable(self, call: Call) -> int:
        """How many calls one replay should have at most, so that slow contestants do not use up the time."""
        if not self.on_gpu:
            return 1
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return max(2, int(REPLAY_MS / max(begin.elapsed_time(end), 1e-3)))

    def launches(self, call: Call) -> int | None:
        """Kernels, copies and fills that one call puts on the GPU; None where the profiler does not work."""
        if not self.on_gpu:
            return None
        torch.cuda.synchronize()
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                call()
                torch.cuda.synchronize()
            return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
        except Exception:  # without the profiler's library, or the right to use it, there is no count
            return None

    def measure(self, calls: Sequence[Call], *, cold: bool) -> Timing:
        """Time of one of `calls`, in microseconds; they run one after another."""
        if not self.on_gpu:
            return self._summary([self._by_hand(calls)], len(calls), graph=False)
        for call in calls:
            call()  # compiles, tunes and allocates
        torch.cuda.synchronize()
        try:
            run, graph = _captured(calls), True
        except Exception:  # a contestant that waits for the GPU cannot be captured; it is measured as it is
            torch.cuda.synchronize()
            run, graph = _in_turn(calls), False
        times = []
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for replay in range(self.replays + 2):
            if cold:
                self._flush.fill_(replay % 100)
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3)
        return self._summary(times[2:], len(calls), graph)

    def _by_hand(self, calls: Sequence[Call]) -> float:
        begin = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - begin) * 1e6

    def _summary(self, times: list[float], calls: int, graph: bool) -> Timing:
        ordered = sorted(each / calls for each in times)
        tenth = len(ordered) // 10
        return Timing(statistics.median(ordered), ordered[tenth], ordered[-1 - tenth], graph)


def _captured(calls: Sequence[Call]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        # Results stay alive to the end of the capture, so that no call writes where an earlier one wrote.
        results = [call() for call in calls]
    del results
    return graph.replay


def _in_turn(calls: Sequence[Call]) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call()

    return run
