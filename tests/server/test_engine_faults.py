"""One request's fault ends one request; a model that does nothing right any more ends the engine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from server.content_model import Logits, answer_to, content_core
from topmast_server.engine import process
from topmast_server.engine.config import EngineConfig
from topmast_server.engine.core import EngineCore
from topmast_server.engine.faults import EngineBroken
from topmast_server.messages import Failed, Ready, Sampling, Submit, Token, pack, unpack
from topmast_server.models.batch import Batch
from topmast_server.progress import Progress

GREEDY = Sampling(temperature=0.0)
POISON = 60
Forward = Callable[[Batch], Logits]


def submit(core: EngineCore, name: str, prompt: list[int], answer: int = 6) -> None:
    assert core.submit(Submit(name, prompt, answer, GREEDY, ignore_eos=True)) == []


def finish(core: EngineCore) -> dict[str, list[Token]]:
    """Everything that comes, by request."""
    answers: dict[str, list[Token]] = {}
    while core.has_work:
        for token in core.step():
            answers.setdefault(token.request_id, []).append(token)
    return answers


def raise_at_poison(batch: Batch, forward: Forward) -> Logits:
    if POISON in batch.tokens[batch.positions == 1]:
        raise ValueError("a poisoned token")
    return forward(batch)


def test_the_poisoned_request_ends_with_a_sentence_and_the_others_with_their_answers() -> None:
    core = content_core(fault=raise_at_poison)
    prompts = {str(number): [number, 2, 3] * 5 for number in range(7)}
    for name, prompt in prompts.items():
        submit(core, name, prompt)
    submit(core, "bad", [5, POISON, 7] * 5)
    answers = finish(core)
    (bad,) = answers.pop("bad")
    assert (bad.token_id, bad.finish) == (-1, "error")
    assert bad.error is not None
    assert "ValueError: a poisoned token" in bad.error
    assert "other requests are not affected" in bad.error
    assert bad.timing is not None
    for name, prompt in prompts.items():
        assert [token.token_id for token in answers[name]] == answer_to(prompt, 6)
    assert core.stats()["failed_total"] == 1
    assert core.check_when_idle() == []


def test_two_poisoned_requests_side_by_side_end_while_others_go_on() -> None:
    core = content_core(fault=raise_at_poison)
    submit(core, "bad", [POISON] * 9)
    submit(core, "worse", [POISON] * 9)
    submit(core, "good", [1] * 9)
    answers = finish(core)
    assert [answers[name][-1].finish for name in ("bad", "worse", "good")] == ["error", "error", "length"]


def test_memory_that_is_short_for_a_batch_or_a_long_chunk_costs_nobody_the_request() -> None:
    def few_rows(batch: Batch, forward: Forward) -> Logits:
        if batch.rows > 10:
            raise MemoryError
        return forward(batch)

    core = content_core(fault=few_rows)
    prompts = {str(number): [number, 2, 3, 4] * 8 for number in range(5)}
    for name, prompt in prompts.items():
        submit(core, name, prompt)
    answers = finish(core)
    for name, prompt in prompts.items():
        assert [token.token_id for token in answers[name]] == answer_to(prompt, 6)


def test_a_model_that_fails_for_everybody_ends_the_engine_with_its_error() -> None:
    def broken(batch: Batch, forward: Forward) -> Logits:
        raise RuntimeError("device lost")

    core = content_core(fault=broken)
    submit(core, "first", [1] * 4)
    submit(core, "second", [2] * 4)
    with pytest.raises(EngineBroken, match="device lost"):
        core.step()


def test_the_parent_is_told_why_a_broken_engine_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(batch: Batch, forward: Forward) -> Logits:
        raise RuntimeError("device lost")

    core = content_core(fault=broken)
    compiling = SimpleNamespace(running=False, stop=lambda: None)
    monkeypatch.setattr(process, "_start", lambda *_: (core, {}, compiling))
    ours, theirs = multiprocessing.Pipe()
    for name in ("first", "second"):
        ours.send_bytes(pack(Submit(name, [1, 2], 4, GREEDY)))
    page = Progress()
    assert process.run(EngineConfig("any"), theirs, page, started_s=0.0) == 1
    page.close()
    assert unpack(ours.recv_bytes()) == Ready({})
    assert unpack(ours.recv_bytes()) == Failed(
        "EngineDied", "The model fails for every request, the last time with: RuntimeError: device lost"
    )


def test_a_model_that_fails_for_one_after_the_other_ends_the_engine_at_the_second() -> None:
    def broken(batch: Batch, forward: Forward) -> Logits:
        raise RuntimeError("device lost")

    core = content_core(fault=broken)
    submit(core, "first", [1] * 4)
    assert [token.finish for token in core.step()] == ["error"]
    submit(core, "second", [1] * 4)
    with pytest.raises(EngineBroken):
        core.step()


def test_one_that_fails_again_and_again_between_good_ones_does_not_end_the_engine() -> None:
    core = content_core(fault=raise_at_poison)
    for number in range(4):
        submit(core, f"bad {number}", [1, POISON])
        finish(core)
        submit(core, f"good {number}", [1])
        finish(core)
    assert core.stats()["failed_total"] == 4


def test_a_row_that_is_not_a_number_ends_its_request_and_its_blocks_are_not_shared() -> None:
    def spoil(batch: Batch, forward: Forward) -> Logits:
        logits = forward(batch)
        for place, row in enumerate(batch.sampled_rows):
            if batch.tokens[row] == POISON and batch.positions[row] == 24:
                logits[place] = float("nan")
        return logits

    core = content_core(fault=spoil)
    head = list(range(24))
    submit(core, "bad", [*head, POISON])
    submit(core, "good", [3] * 9)
    answers = finish(core)
    (bad,) = answers["bad"]
    assert bad.error is not None
    assert "not a number" in bad.error
    assert [token.token_id for token in answers["good"]] == answer_to([3] * 9, 6)
    submit(core, "later", [*head, 1])
    later = finish(core)["later"]
    assert later[0].cached_tokens == 0  # computed anew
    assert [token.token_id for token in later] == answer_to([*head, 1], 6)


def test_books_that_do_not_add_up_are_counted_and_begun_afresh() -> None:
    core = content_core(blocks=10)
    submit(core, "a", list(range(20)))
    finish(core)
    core.scheduler.pool.take(3)  # as a bug would that loses blocks
    (problem,) = core.check_when_idle()
    assert "owners" in problem
    assert core.check_when_idle() == []
    assert core.stats()["integrity_failures_total"] == 1
    assert core.stats()["kv_blocks_used"] == 0
    submit(core, "b", list(range(60)))
    assert [token.token_id for token in finish(core)["b"]] == answer_to(list(range(60)), 6)
