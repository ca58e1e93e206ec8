"""What an engine says of its own load, read from its metrics page. Pure.

The names are vLLM's, so that a page of vLLM is understood as well. What is missing stays None; nothing is guessed.
A page may come from anybody who can create a pod: it is read in one pass, whatever is on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_KV_USED, _CACHE = "vllm:kv_cache_usage_perc", "vllm:cache_config_info"
_MAX_NUM_SEQS = "topmast_max_num_seqs"  # only our server has it
_LONGEST_LINE = 16 * 1024
_LONGEST_NUMBER = 32
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
    running, waiting = _sum(page, _RUNNING), _sum(page, _WAITING)
    if running is None or waiting is None:
        return None
    most = _sum(page, _MAX_NUM_SEQS)
    kv_used = max((number for _, number in _samples(page, _KV_USED)), default=None)
    kv_tokens = sum(_cache_tokens(labels) for labels, _ in _samples(page, _CACHE))
    return LoadReport(int(running), int(waiting), kv_used, int(most) if most else None, kv_tokens or None)


def _sum(page: str, name: str) -> float | None:
    numbers = [number for _, number in _samples(page, name)]
    return sum(numbers) if numbers else None


def _cache_tokens(labels: str) -> int:
    sizes = {key: int(number) for key, number in _BLOCKS.findall(labels)}
    return sizes.get("block_size", 0) * sizes.get("num_gpu_blocks", 0)


def _samples(page: str, name: str) -> Iterator[tuple[str, float]]:
    """Labels and value of every line with this name. One search, which never goes back: a line is looked at once."""
    at = page.find(name)
    while at >= 0:
        after = at + len(name)
        if at and page[at - 1] != "\n":  # in the middle of another line
            at = page.find(name, after)
            continue
        end = page.find("\n", after)
        end = len(page) if end < 0 else end
        if page[after : after + 1] in ("{", " ") and end - after <= _LONGEST_LINE:
            labels, _, value = page[after:end].rpartition("}") if page[after] == "{" else ("", "", page[after:end])
            if (number := _number(value)) is not None:
                yield labels, number
        at = page.find(name, end)


def _number(text: str) -> float | None:
    """A count, or None: what follows it is a timestamp, and NaN and infinity are no counts."""
    words = text.split(maxsplit=1)
    if not words or len(words[0]) > _LONGEST_NUMBER:
        return None
    try:
        number = float(words[0])
    except ValueError:
        return None
    return number if 0 <= number < 1e12 else None
