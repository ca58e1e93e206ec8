"""What we want to be able to say, each a comparison that a run can refute: cold times, and the worst cell decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kernel_bench.machine import Machine
from kernel_bench.problem import Result

OURS = "topmast"


@dataclass(frozen=True)
class Claim:
    """value(result of ours) against `least`, over the cells where `applies`; None from `value` means no comparison."""

    text: str
    applies: Callable[[Result], bool]
    value: Callable[[Result], float | None]
    least: float


@dataclass(frozen=True)
class Outcome:
    """holds: None if no cell could be compared. worst: the lowest value, and where."""

    text: str
    holds: bool | None
    cells: int
    worst: float | None
    where: str


def number(result: Result, name: str) -> int:
    value = result.size.get(name, 0)
    return value if isinstance(value, int) else 0


def judge(machine: Machine, results: Sequence[Result]) -> list[Outcome]:
    times = {(each.operation, str(each.size), each.contestant): each.cold_us for each in results if each.right}

    def of_copy(result: Result) -> float | None:
        if machine.copy_gb_per_s is None or result.cold_gb_per_s is None:
            return None
        return result.cold_gb_per_s / machine.copy_gb_per_s

    def of_floor(result: Result) -> float | None:
        return result.floor_us / result.cold_us if result.floor_us and result.cold_us else None

    def faster_than(rival: str) -> Callable[[Result], float | None]:
        def value(result: Result) -> float | None:
            theirs = times.get((result.operation, str(result.size), rival))
            return theirs / result.cold_us if theirs and result.cold_us else None

        return value

    def large_softmax(result: Result) -> bool:
        return result.operation == "softmax" and result.bytes_moved >= 64_000_000

    def small_softmax(result: Result) -> bool:
        wide = number(result, "vocabulary") >= 128_000
        return result.operation == "softmax" and wide and number(result, "batch") <= 8

    def greedy(result: Result) -> bool:
        return result.operation == "greedy"

    def filtered(result: Result) -> bool:
        return result.operation == "top-k 50, top-p 0.9" and number(result, "batch") <= 64

    def large_decode(result: Result) -> bool:
        large = number(result, "sequences") >= 32 and number(result, "context") >= 4096
        return result.operation == "decode attention" and large

    claims = [
        Claim("softmax of 64 MB and more moves bytes at 0.9 of copy speed", large_softmax, of_copy, 0.9),
        Claim("softmax of up to 8 long rows is 3 times as fast as torch's", small_softmax, faster_than("torch"), 3.0),
        Claim("greedy takes at most 1.3 times its floor", greedy, of_floor, 1 / 1.3),
        Claim("top-k, top-p is 10 times as fast as transformers' chain", filtered, faster_than("transformers"), 10.0),
        Claim("top-k, top-p is faster than FlashInfer", filtered, faster_than("flashinfer"), 1.0),
        Claim("decode attention of 32 x 4096 keys reads at 0.85 of copy speed", large_decode, of_copy, 0.85),
    ]
    ours = [each for each in results if each.contestant == OURS and each.right]
    return [_outcome(claim, ours) for claim in claims]


def _outcome(claim: Claim, ours: Sequence[Result]) -> Outcome:
    compared = [(value, each) for each in ours if claim.applies(each) if (value := claim.value(each)) is not None]
    if not compared:
        return Outcome(claim.text, None, 0, None, "")
    worst, where = min(compared, key=lambda pair: pair[0])
    return Outcome(claim.text, worst >= claim.least, len(compared), round(worst, 3), str(where.size))
