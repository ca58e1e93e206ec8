"""Bugs in the vocabulary-wide kernels that the tests' checks find; each is put into a copy of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle_draws
import pytest
import torch
from logit_rows import special_rows
from mutation import Load, Mutation, assert_found
from oracle_vocabulary import clean, log_softmax, rank, softmax

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
INFINITY = float("inf")


def the_last_block_counts(load: Load) -> None:
    logits = torch.arange(300.0)[None] / 30
    found = load("gpu.greedy").greedy(logits, block=64)
    assert found.tokens.tolist() == [299]
    assert abs(float(found.logprobs[0]) - log_softmax(logits[0].numpy())[299]) < 1e-5


def the_lowest_of_equals_wins(load: Load) -> None:
    logits = torch.zeros(2, 300)
    logits[1, 70::7] = 1.0
    assert load("gpu.greedy").greedy(logits, block=64).tokens.tolist() == [0, 70]


def a_block_of_nothing_has_no_share(load: Load) -> None:
    logits = torch.full((1, 300), -INFINITY)
    logits[0, 70] = 1.0
    found = load("gpu.greedy").greedy(logits, block=64)
    assert found.tokens.tolist() == [70] and abs(float(found.logprobs[0])) < 1e-6
    shares = load("gpu.softmax").softmax(torch.full((1, 300), -INFINITY), block=64)
    assert (shares == 0).all()


def infinities_share_the_mass(load: Load) -> None:
    logits = torch.zeros(1, 300)
    logits[0, [3, 250]] = INFINITY
    shares = load("gpu.softmax").softmax(logits, block=64)
    assert shares[0, [3, 250]].tolist() == [0.5, 0.5] and float(shares.sum()) == 1.0


def flags_are_raised(load: Load) -> None:
    logits = torch.zeros(4, 300)
    logits[1, 299] = float("nan")
    logits[2] = -INFINITY
    logits[3, 0] = INFINITY
    assert load("gpu.greedy").greedy(logits, block=64).flags.tolist() == [0, 1, 2, 4]


def nan_counts_as_minus_infinity(load: Load) -> None:
    logits = torch.zeros(1, 300)
    logits[0, [0, 299]] = float("nan")
    found = load("gpu.greedy").greedy(logits, block=64)
    assert found.tokens.tolist() == [1] and abs(float(found.lse[0]) - np.log(298)) < 1e-5


def nothing_gives_the_fallback(load: Load) -> None:
    logits, one = torch.full((1, 300), -INFINITY), torch.ones(1, dtype=torch.int32)
    found = load("gpu.greedy").greedy(logits, fallback=42, block=64)
    drawn = load("gpu.sample").sample(logits, one.long(), one, fallback=42, block=64)
    assert found.tokens.tolist() == drawn.tokens.tolist() == [42]


def masks_allow_their_own_tokens(load: Load) -> None:
    mask = torch.zeros(4, 5, dtype=torch.int32)
    for row, token in enumerate((0, 33, 65, 159)):
        mask[row, token // 32] = 1 << (token % 32) if token % 32 < 31 else -(2**31)
    assert load("gpu.greedy").greedy(torch.zeros(4, 200), allowed=mask, block=128).tokens.tolist() == [0, 33, 65, 159]


def tokens_beyond_the_mask_are_forbidden(load: Load) -> None:
    mask = torch.full((1, 4), -1, dtype=torch.int32)
    found = load("gpu.greedy").greedy(torch.arange(300.0)[None], allowed=mask, block=64)
    assert found.tokens.tolist() == [127]


def padding_is_no_token(load: Load) -> None:
    logits = torch.zeros(1, 310)
    logits[0, 300:] = 50.0
    found = load("gpu.greedy").greedy(logits, vocabulary=300, block=64)
    assert found.tokens.tolist() == [0] and abs(float(found.lse[0]) - np.log(300)) < 1e-5


def draws_are_those_of_the_noise(load: Load) -> None:
    values = special_rows(250)["normal, deviation 1.0"]
    seeds, positions = np.arange(16) << 30, np.arange(16) % 3
    logits, at = torch.from_numpy(values).expand(16, 250), torch.from_numpy(positions.astype(np.int32))
    heat = torch.full((16,), 2.5)
    found = load("gpu.sample").sample(logits, torch.from_numpy(seeds), at, temperature=heat, block=128)
    assert found.tokens.tolist() == oracle_draws.draw(values, 2.5, 128, seeds, positions).tolist()


def the_same_request_draws_the_same_in_every_row(load: Load) -> None:
    logits, seeds = torch.zeros(6, 300), torch.full((6,), 9)
    found = load("gpu.sample").sample(logits, seeds, torch.full((6,), 3, dtype=torch.int32), block=64)
    assert len(set(found.tokens.tolist())) == 1


def smallest_exponentials_are_fine(load: Load) -> None:
    """A draw whose first word is 0 is not always the same one: the second word tells."""
    assert smallest(load, 0) == 2.0**-65 and smallest(load, 2**32 - 1) > 2.0**-33


def smallest(load: Load, second: int) -> float:
    import triton
    import triton.language as tl

    exponential = load("gpu.noise").exponential

    @triton.jit
    def kernel(out, second, function: tl.constexpr):
        word = tl.full((), second, tl.int64).to(tl.uint32)
        tl.store(out, function(word ^ word, word))

    out = torch.empty(1)
    kernel[(1,)](out, second, function=exponential)
    return float(out[0])


def large_offsets_keep_their_digits(load: Load) -> None:
    """Logits around 1e5 in steps of 1/64 and a temperature that is no power of two."""
    logits = torch.arange(200.0)[None] / 64 + 1e5
    shares = load("gpu.softmax").softmax(logits, temperature=torch.tensor([0.7]), block=64)[0].double().numpy()
    expected = softmax(logits[0].numpy(), 0.7)
    assert np.linalg.norm(shares - expected) < 1e-6 * np.linalg.norm(expected)


def ranks_and_the_best_follow_the_order(load: Load) -> None:
    values = special_rows(300)["coarse"]
    found = load("gpu.logprobs").logprobs(
        torch.from_numpy(values)[None], torch.tensor([200], dtype=torch.int32), top_n=12, block=64
    )
    order = np.lexsort((np.arange(300), -values))[:12]
    assert found.ranks.tolist() == [rank(clean(values)[0], 200)]
    assert found.top_ids[0].tolist() == order.tolist()


def a_workspace_may_be_used_again(load: Load) -> None:
    work = load("gpu.workspace").Workspace.make(1, 300, device="cpu", block=64)
    for token in (5, 290):
        logits, out = torch.zeros(1, 300), load("gpu.greedy").Greedy.empty(1, torch.device("cpu"))
        logits[0, token] = 1.0
        out.tokens.fill_(-1)
        assert load("gpu.greedy").greedy(logits, out=out, workspace=work, block=64).tokens.tolist() == [token]


def walks_read_every_block(load: Load) -> None:
    logits = torch.arange(600.0)[None]
    assert load("gpu.greedy").greedy(logits, block=64, walk=4).tokens.tolist() == [599]


STATS, SCALING, LINES, NOISE = "gpu/stats.py", "gpu/scaling.py", "gpu/lines.py", "gpu/noise.py"
GREEDY, SAMPLE, LOGPROBS, SOFTMAX = "gpu/greedy.py", "gpu/sample.py", "gpu/logprobs.py", "gpu/softmax.py"
MUTATIONS = [
    Mutation(
        "last block left out",
        STATS,
        "        if block < blocks:",
        "        if block < blocks - 1:",
        the_last_block_counts,
    ),
    Mutation(
        "end of the walk left out", STATS, "-(-blocks // walk), walk", "blocks // walk, walk", walks_read_every_block
    ),
    Mutation(
        "tie within a block to the highest id",
        STATS,
        "tl.min(tl.where(x == peak, tokens, NO_ID))",
        "tl.max(tl.where(x == peak, tokens, 0))",
        the_lowest_of_equals_wins,
    ),
    Mutation(
        "tie between blocks to the highest id",
        GREEDY,
        "tl.min(tl.where(peaks == peak, candidates, NO_ID))",
        "tl.max(tl.where(peaks == peak, candidates, 0))",
        the_lowest_of_equals_wins,
    ),
    Mutation("no guard for -inf", SCALING, "tl.maximum(peak, -LARGEST)", "peak", a_block_of_nothing_has_no_share),
    Mutation("no guard for +inf", SCALING, "(tl.minimum(x, LARGEST) -", "(x -", infinities_share_the_mass),
    Mutation(
        "scaled before the maximum is subtracted",
        SCALING,
        "(tl.minimum(x, LARGEST) - tl.minimum(tl.maximum(peak, -LARGEST), LARGEST)) * scale",
        "tl.minimum(x, LARGEST) * scale - tl.minimum(tl.maximum(peak, -LARGEST), LARGEST) * scale",
        large_offsets_keep_their_digits,
    ),
    Mutation("NaN flag not raised", STATS, "return nan * NAN_FLAG | nothing", "return nothing", flags_are_raised),
    Mutation(
        "flag of nothing not raised",
        STATS,
        'peak == float("-inf"), NOTHING_FLAG',
        "peak != peak, NOTHING_FLAG",
        flags_are_raised,
    ),
    Mutation("+inf flag not raised", STATS, 'peak == float("inf")', "peak != peak", flags_are_raised),
    Mutation(
        "NaN not taken for -inf", LINES, "real = (x == x) & (tokens", "real = (tokens", nan_counts_as_minus_infinity
    ),
    Mutation(
        "greedy without fallback",
        GREEDY,
        "where(nothing, fallback, token)",
        "where(nothing, token, token)",
        nothing_gives_the_fallback,
    ),
    Mutation("draw without fallback", SAMPLE, "token = fallback", "token = fallback * 0", nothing_gives_the_fallback),
    Mutation(
        "mask bits off by one",
        LINES,
        "word >> (column & 31)",
        "word >> ((column + 1) & 31)",
        masks_allow_their_own_tokens,
    ),
    Mutation(
        "halves of a line's mask swapped",
        LINES,
        "column[None, :] < 32",
        "column[None, :] >= 32",
        masks_allow_their_own_tokens,
    ),
    Mutation(
        "tokens beyond the mask allowed",
        LINES,
        "mask=2 * lines < words, other=0",
        "mask=2 * lines < words, other=-1",
        tokens_beyond_the_mask_are_forbidden,
    ),
    Mutation(
        "padding taken for tokens",
        LINES,
        "(x == x) & (tokens < vocabulary)\n    if",
        "(x == x) & (tokens < width)\n    if",
        padding_is_no_token,
    ),
    Mutation(
        "noise keyed by row",
        SAMPLE,
        "tl.load(seeds + row)",
        "tl.load(seeds + row) + row",
        the_same_request_draws_the_same_in_every_row,
    ),
    Mutation("position left out of the noise", NOISE, "ids * 0 + position", "ids * 0", draws_are_those_of_the_noise),
    Mutation(
        "lines and tokens share noise",
        SAMPLE,
        "position, LINE_STREAM",
        "position, TOKEN_STREAM",
        draws_are_those_of_the_noise,
    ),
    Mutation(
        "a line's mass left out of its chance",
        SAMPLE,
        "weight = log2_mass(tl.sum(tl.exp2(scaled_gap(x, peak, scale)), 1))",
        "weight = tl.max(scaled_gap(x, peak, scale), 1)",
        draws_are_those_of_the_noise,
    ),
    Mutation("a block's mass left out of its chance", SAMPLE, " + log2_mass(masses)", "", draws_are_those_of_the_noise),
    Mutation(
        "temperature left out of the draw",
        SAMPLE,
        "weight = scaled_gap(x, peak, scale)\n",
        "weight = scaled_gap(x, peak, 1.4427)\n",
        draws_are_those_of_the_noise,
    ),
    Mutation("second word left out", NOISE, "(second.to(tl.float32) + 0.5)", "0.5", smallest_exponentials_are_fine),
    Mutation(
        "rank counts ties with higher ids",
        LOGPROBS,
        "(tokens < token)",
        "(tokens > token)",
        ranks_and_the_best_follow_the_order,
    ),
    Mutation(
        "a taken token is taken again", LOGPROBS, "key < best,", "key <= best,", ranks_and_the_best_follow_the_order
    ),
    Mutation("keys prefer the higher id", "gpu/order.py", "(-ids + NO_ID)", "ids", ranks_and_the_best_follow_the_order),
    Mutation(
        "counter not set back",
        "gpu/workspace.py",
        "tl.store(arrival, 0)",
        "tl.store(arrival, 1)",
        a_workspace_may_be_used_again,
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_bug_is_found(mutation: Mutation, tmp_path: Path) -> None:
    assert_found(mutation, tmp_path)
