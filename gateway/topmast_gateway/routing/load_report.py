"""What an engine says of its own load, read from its metrics page. Pure.

The names are vLLM's, so that a page of vLLM is understood as well. What is missing stays None; nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(
    r"^(vllm:num_requests_running|vllm:num_requests_waiting|vllm:kv_cache_usage_perc|vllm:cache_config_info"
    r"|topmast_max_num_seqs)(?:\{([^}]*)\})? (\S+)",
    re.MULTILINE,
)
_BLOCKS = re.compile(r'\b(block_size|num_gpu_blocks)="(\d{1,15})"')


@dataclass(frozen=True, slots=True)
class LoadReport:
    """`running` and `waiting` are sequences, `kv_used` is a share from 0 to 1, `kv_tokens` is what the cache holds."""

    running: int
    waiting: int
    kv_used: float | None = None
    max_num_seqs: int | None = None
    kv_tokens: int | None = None

    @property
    def requests(self) -> int:
        """All that it has taken on, from whichever gateway."""
        return self.running + self.waiting


def parse_metrics(page: str) -> LoadReport | None:
    """The report in a page of Prometheus's text format, or None when the page does not count requests.

    An engine with several ranks behind one port has a line for each, which are added up.
    """
    sums: dict[str, float] = {}
    kv_tokens = 0
    for name, labels, value in _LINE.findall(page):
        if name == "vllm:cache_config_info":
            sizes = {key: int(number) for key, number in _BLOCKS.findall(labels)}
            kv_tokens += sizes.get("block_size", 0) * sizes.get("num_gpu_blocks", 0)
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        if not 0 <= number < 1e12:  # NaN and infinity included
            continue
        sums[name] = max(sums.get(name, 0.0), number) if name.endswith("perc") else sums.get(name, 0.0) + number
    running, waiting = (sums.get(f"vllm:num_requests_{state}") for state in ("running", "waiting"))
    if running is None or waiting is None:
        return None
    most = sums.get("topmast_max_num_seqs")
    return LoadReport(
        int(running),
        int(waiting),
        sums.get("vllm:kv_cache_usage_perc"),
        int(most) if most else None,
        kv_tokens or None,
    )
