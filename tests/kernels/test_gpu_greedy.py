"""The greatest logit, its log-probability, the log-sum-exp and the flags of a row, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from logit_rows import VOCABULARIES, poisoned, random_mask, special_rows
from oracle_vocabulary import clean, log_softmax, logsumexp, unpack_allowed
from oracle_vocabulary import greedy as oracle_greedy

from topmast_kernels.gpu.greedy import Greedy, greedy
from topmast_kernels.gpu.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(
    found: Greedy, logits: torch.Tensor, vocabulary: int, mask: torch.Tensor | None = None, fallback: int = 0
) -> None:
    for row, values in enumerate(logits.float().numpy()):
        allowed = None if mask is None else unpack_allowed(mask[row].numpy(), vocabulary)
        expected, flags = clean(values[:vocabulary], allowed)
        token = oracle_greedy(expected, fallback)
        assert found.tokens[row] == token
        assert found.flags[row] == flags
        np.testing.assert_allclose(float(found.logprobs[row]), log_softmax(expected)[token], rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(float(found.lse[row]), logsumexp(expected), rtol=2e-7, atol=2e-6)


@pytest.mark.old_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_rows(dtype: torch.dtype) -> None:
    logits = poisoned(np.stack(list(special_rows(300).values())), dtype, padding=20, gap=7)
    check(greedy(logits, vocabulary=300, fallback=299, block=128), logits, 300, fallback=299)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_length(vocabulary: int) -> None:
    rows = special_rows(vocabulary, seed=vocabulary)
    chosen = ["ascending", "coarse", "only 0", f"only {vocabulary - 1}", "NaN at 0", f"NaN at {vocabulary - 1}"]
    logits = poisoned(np.stack([rows[name] for name in chosen]), torch.float16, padding=1)
    check(greedy(logits, vocabulary=vocabulary), logits, vocabulary)


def test_a_large_vocabulary() -> None:
    logits = torch.randn(1, 151936, generator=torch.Generator().manual_seed(2)).bfloat16()
    check(greedy(logits, vocabulary=151669), logits, 151669)


def test_the_lowest_of_equal_ids_wins_wherever_they_are() -> None:
    logits = torch.zeros(12, 700)
    first = [0, 1, 63, 64, 65, 127, 128, 200, 255, 256, 500, 699]
    for row, token in enumerate(first):
        logits[row, token] = 3.0
        logits[row, token + 1 :: 7] = 3.0
    assert greedy(logits, block=64).tokens.tolist() == first


@pytest.mark.parametrize("words", [None, 4, 0])
def test_only_allowed_tokens_count(words: int | None) -> None:
    """Random masks, narrower than the vocabulary or empty, with a stride of their own."""
    logits = poisoned(np.stack(list(special_rows(300).values())[:14]), torch.bfloat16)
    mask = random_mask(14, 300, seed=3, words=words, gap=3)
    check(greedy(logits, allowed=mask, fallback=5, block=64), logits, 300, mask, fallback=5)


def test_every_bit_of_the_mask_is_its_own_token() -> None:
    mask = torch.zeros(130, 5, dtype=torch.int32)
    for token in range(130):
        mask[token, token // 32] = 1 << (token % 32) if token % 32 < 31 else -(2**31)
    assert greedy(torch.zeros(130, 160), allowed=mask, block=256).tokens.tolist() == list(range(130))


def test_outputs_and_workspace_are_used_again_and_the_counters_are_back_at_zero() -> None:
    rows = np.stack(list(special_rows(300).values())[:8])
    work = Workspace.make(8, 300, device="cpu", block=64)
    for tensor in (work.stats.maxima, work.stats.sums):
        tensor.fill_(float("nan"))
    for count in (8, 3, 8):
        logits = torch.from_numpy(rows[:count])
        out = Greedy.empty(count, logits.device)
        out.logprobs.fill_(float("nan"))
        assert greedy(logits, out=out, workspace=work, block=64, walk=2) is out
        check(out, logits, 300)
        assert (work.arrivals == 0).all()


def test_no_rows_are_no_work() -> None:
    assert greedy(torch.empty(0, 100)).tokens.shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"fallback": 4}, "give the end-of-sequence token's id"),
        ({"fallback": -1}, "give the end-of-sequence token's id"),
        ({"out": Greedy.empty(2, torch.device("cpu"))}, "give contiguous ones of 3 rows"),
        ({"workspace": Workspace.make(2, 4, device="cpu")}, "make one for 3 rows of 1"),
        ({"workspace": Workspace.make(3, 400, device="cpu", block=64)}, "make one for 3 rows of 1"),
    ],
)
def test_bad_arguments_are_told_what_to_do(arguments: dict[str, object], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        greedy(torch.zeros(3, 4), **arguments)  # type: ignore[arg-type]
