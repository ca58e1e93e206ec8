"""Log-probabilities and ranks of chosen tokens, and the best tokens in order, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from logit_rows import VOCABULARIES, poisoned, random_mask, special_rows
from oracle_vocabulary import clean, log_softmax, logsumexp, ordered, rank, unpack_allowed

from topmast_kernels.gpu.logprobs import Logprobs, logprobs
from topmast_kernels.gpu.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(
    found: Logprobs,
    logits: torch.Tensor,
    tokens: torch.Tensor,
    vocabulary: int,
    temperature: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> None:
    top_n = found.top_ids.shape[1]
    for row, values in enumerate(logits.float().numpy()):
        allowed = None if mask is None else unpack_allowed(mask[row].numpy(), vocabulary)
        expected, flags = clean(values[:vocabulary], allowed)
        degrees = 1.0 if temperature is None or temperature[row] < 1e-5 else float(temperature[row])
        logs, token = log_softmax(expected, degrees), int(tokens[row])
        close = {"rtol": 3e-6, "atol": 3e-6}
        assert found.flags[row] == flags
        np.testing.assert_allclose(float(found.lse[row]), logsumexp(expected, degrees), rtol=5e-7, atol=3e-6)
        if 0 <= token < vocabulary:
            np.testing.assert_allclose(float(found.logprobs[row]), logs[token], **close)
            assert found.ranks[row] == rank(expected, token)
        else:
            assert found.logprobs[row] == -np.inf and found.ranks[row] == 0
        best = ordered(expected)[:top_n]
        assert found.top_ids[row].tolist() == best.tolist() + [-1] * (top_n - len(best))
        np.testing.assert_allclose(found.top_logprobs[row, : len(best)].numpy(), logs[best], **close)
        assert (found.top_logprobs[row, len(best) :] == -np.inf).all()


def some_tokens(rows: int, vocabulary: int) -> torch.Tensor:
    """Ids of all kinds, among them the first, the last and some that do not exist."""
    drawn = torch.randint(0, vocabulary, (rows,), generator=torch.Generator().manual_seed(rows), dtype=torch.int32)
    for place, token in enumerate((0, vocabulary - 1, -1, vocabulary, 2**31 - 1, -(2**31))):
        drawn[place::13] = token
    return drawn


@pytest.mark.parametrize("top_n", [0, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_rows(dtype: torch.dtype, top_n: int) -> None:
    logits = poisoned(np.stack(list(special_rows(300).values())), dtype, padding=20, gap=7)
    tokens = some_tokens(len(logits), 300)
    check(logprobs(logits, tokens, top_n=top_n, vocabulary=300, block=128), logits, tokens, 300)


@pytest.mark.old_triton
def test_temperature_and_mask() -> None:
    logits = poisoned(np.stack(list(special_rows(200).values())[:12]), torch.bfloat16)
    temperature, tokens = torch.tensor([0.2, 1.0, 3.0, 0.0] * 3), some_tokens(12, 200)
    mask = random_mask(12, 200, seed=6, words=6, gap=1)
    found = logprobs(logits, tokens, top_n=3, temperature=temperature, allowed=mask, block=64)
    check(found, logits, tokens, 200, temperature, mask)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_length(vocabulary: int) -> None:
    rows = special_rows(vocabulary, seed=vocabulary)
    logits = poisoned(np.stack([rows["coarse"], rows["nearly all forbidden"]]), torch.float32, padding=3)
    tokens = torch.tensor([vocabulary // 2, vocabulary // 3], dtype=torch.int32)
    check(logprobs(logits, tokens, top_n=5, vocabulary=vocabulary), logits, tokens, vocabulary)


def test_the_best_may_all_lie_in_one_column_or_one_block() -> None:
    """Where a list of a fixed size per column or per block would be too short."""
    logits = torch.linspace(0, 1, 1000).repeat(3, 1)
    logits[0, 5::64] += 10  # one column of every block: its tokens follow one another
    logits[1, 256:320] += 10  # one line
    logits[2, 64:128] += 10
    logits[2, 576:640] += 10  # two lines of one block
    tokens = torch.tensor([5, 256, 64], dtype=torch.int32)
    found = logprobs(logits, tokens, top_n=20, block=128)
    check(found, logits, tokens, 1000)


def test_equal_logits_come_in_the_order_of_ids() -> None:
    found = logprobs(torch.zeros(1, 3000), torch.tensor([2999], dtype=torch.int32), top_n=20, block=256)
    assert found.top_ids[0].tolist() == list(range(20))
    assert found.ranks.tolist() == [3000]


def test_a_large_vocabulary() -> None:
    logits = torch.randn(1, 128256, generator=torch.Generator().manual_seed(3)).bfloat16()
    tokens = torch.tensor([77], dtype=torch.int32)
    check(logprobs(logits, tokens, top_n=20), logits, tokens, 128256)


def test_outputs_and_workspace_are_used_again() -> None:
    logits = torch.from_numpy(np.stack(list(special_rows(300).values())[:5]))
    tokens = some_tokens(5, 300)
    work = Workspace.make(9, 300, device="cpu", block=128, top_n=True)
    for top_n, walk in ((2, 1), (0, 2), (2, 3)):
        out = Logprobs.empty(5, top_n, logits.device)
        assert logprobs(logits, tokens, top_n=top_n, out=out, workspace=work, block=128, walk=walk) is out
        check(out, logits, tokens, 300)
        assert (work.arrivals == 0).all()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"top_n": 21}, "give 0 to 20"),
        ({"top_n": -1}, "give 0 to 20"),
        ({"tokens": torch.zeros(3, dtype=torch.int64)}, r"give contiguous torch.int32 \[3\]"),
        ({"top_n": 2, "out": Logprobs.empty(3, 1, torch.device("cpu"))}, r"make one with Logprobs.empty\(3, 2"),
        ({"top_n": 2, "workspace": Workspace.make(3, 4, device="cpu")}, "with top_n=True"),
    ],
)
def test_bad_arguments_are_told_what_to_do(arguments: dict[str, object], advice: str) -> None:
    tokens = torch.zeros(3, dtype=torch.int32)
    with pytest.raises(ValueError, match=advice):
        logprobs(torch.zeros(3, 4), **({"tokens": tokens} | arguments))  # type: ignore[arg-type]
