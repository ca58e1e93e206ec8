"""What the core promises a request beside its tokens: cached tokens, timing, deadlines, and counters that add up."""

from __future__ import annotations

from collections.abc import Callable

from server.content_model import Logits, answer_to, content_core
from topmast_server.engine.core import EngineCore
from topmast_server.engine.warmup import warm_up
from topmast_server.messages import Sampling, Submit, Timing, Token
from topmast_server.models.batch import Batch

GREEDY = Sampling(temperature=0.0)


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def finish(core: EngineCore) -> list[Token]:
    tokens = []
    while core.has_work:
        tokens += core.step()
    return tokens


def test_the_second_turn_of_a_chat_computes_only_what_is_new() -> None:
    core = content_core()
    prompt = list(range(30))
    core.submit(Submit("first", prompt, 20, GREEDY, ignore_eos=True))
    answer = [token.token_id for token in finish(core)]
    computed = core.stats()["prompt_tokens_computed_total"]
    again = [*prompt, *answer, 7, 7, 7]
    core.submit(Submit("second", again, 5, GREEDY, ignore_eos=True))
    tokens = finish(core)
    assert [token.token_id for token in tokens] == answer_to(again, 5)
    assert {token.cached_tokens for token in tokens} == {48}  # six blocks of 8; the answer's last token has no KV
    stats = core.stats()
    assert stats["prompt_tokens_computed_total"] - computed == 53 - 48
    assert (stats["prefix_cache_queries_total"], stats["prefix_cache_hits_total"]) == (30 + 53, 48)


def test_another_salt_shares_nothing() -> None:
    core = content_core()
    for salt in ("", "a", "b", "a"):
        core.submit(Submit(f"of {salt}", list(range(30)), 1, GREEDY, cache_salt=salt))
        (token,) = finish(core)
    assert token.cached_tokens == 24  # the second of "a"
    assert core.stats()["prefix_cache_hits_total"] == 24


def test_the_first_and_the_last_token_say_where_the_time_went() -> None:
    clock = Clock()
    core = content_core(slots=1, clock=clock)
    core.submit(Submit("first", [1, 2], 3, GREEDY, ignore_eos=True))
    core.submit(Submit("second", [1] * 300, 2, GREEDY, ignore_eos=True))
    timings: dict[str, list[Timing | None]] = {"first": [], "second": []}
    while core.has_work:
        clock.now_s += 1.0
        for token in core.step():
            timings[token.request_id].append(token.timing)
    assert timings["first"][0] == Timing(1.0, 0.0, 0.0) and timings["first"][1] is None
    first, second = timings["first"][2], timings["second"][1]
    assert first is not None and second is not None
    assert (first.queued_s, first.prefill_s, first.decode_s, first.preemptions) == (1.0, 0.0, 2.0, 0)
    assert (second.queued_s, second.prefill_s, second.decode_s) == (4.0, 1.0, 1.0)  # 300 tokens take two steps


def test_a_request_past_its_deadline_ends_with_deadline_waiting_or_running() -> None:
    clock = Clock()
    core = content_core(slots=1, clock=clock)
    core.submit(Submit("runs", [1, 2], 50, GREEDY, ignore_eos=True, deadline_s=103.5))
    core.submit(Submit("waits", [1, 2], 50, GREEDY, ignore_eos=True, deadline_s=102.0))
    ends = {}
    while core.has_work:
        for token in core.step():
            if token.finish:
                ends[token.request_id] = (clock.now_s, token)
        clock.now_s += 1.0
    at_s, runs = ends["runs"]
    assert (at_s, runs.token_id, runs.finish) == (104.0, -1, "deadline")
    assert runs.timing is not None and runs.timing.decode_s == 4.0
    at_s, waits = ends["waits"]
    assert (at_s, waits.finish) == (102.0, "deadline")
    assert waits.timing is not None and (waits.timing.queued_s, waits.timing.prefill_s) == (2.0, 0.0)
    assert core.stats()["deadline_total"] == 2
    assert core.check_when_idle() == []


def test_a_preempted_answer_is_the_same_and_says_how_often_it_was() -> None:
    core = content_core(blocks=12, slots=4)
    for _ in range(100):
        core.scheduler.lengths.observe(3)  # answers were short lately: too many are let in
    prompts = [[number] * 12 for number in range(4)]
    for number, prompt in enumerate(prompts):
        core.submit(Submit(str(number), prompt, 40, GREEDY, ignore_eos=True))
    tokens = finish(core)
    for number, prompt in enumerate(prompts):
        assert [token.token_id for token in tokens if token.request_id == str(number)] == answer_to(prompt, 40)
    told = sum(token.timing.preemptions for token in tokens if token.timing is not None)
    assert told == core.stats()["preemptions_total"] > 0


def test_step_times_add_up() -> None:
    ticks = iter(range(10_000))
    core = content_core(clock=lambda: float(next(ticks)))
    core.submit(Submit("a", [1] * 20, 9, GREEDY, ignore_eos=True))
    finish(core)
    stats = core.stats()
    assert stats["steps_total"] == 9
    assert stats["schedule_s_total"] == 9 * stats["step_schedule_s"] > 0
    assert stats["post_s_total"] > 0
    parts = [stats[f"step_{part}_s"] for part in ("schedule", "forward", "sample", "post")]
    assert stats["step_s"] == sum(parts)


def test_a_warm_up_measures_both_rates_however_slow_its_first_step_is() -> None:
    clock = Clock()

    def slow_at_first(batch: Batch, forward: Callable[[Batch], Logits]) -> Logits:
        clock.now_s += 10.0 if clock.now_s == 100.0 else 0.01
        return forward(batch)

    core = content_core(fault=slow_at_first, clock=clock)
    steps: list[float] = []
    warm_up(core, lambda: steps.append(clock.now_s))
    assert len(steps) >= 8  # four tokens each of the batch and of the prompt
    assert core.step_time.decode_tokens_per_s > 0 and core.step_time.prefill_tokens_per_s > 0
