"""The generation before Ready: every path of the model is walked once, and the first rates are measured."""

from __future__ import annotations

from collections.abc import Callable

from topmast_server.engine.core import EngineCore
from topmast_server.messages import Sampling, Submit

_PROMPT_TOKENS, _ANSWER_TOKENS = 64, 4  # a start is counted in tenths of a second


def warm_up(core: EngineCore, stepped: Callable[[], None] = lambda: None) -> None:
    """Requests through the scheduler: a longer prompt, decodes, greedy and drawn, and enough to measure a batch.

    `stepped` is called after each step: a warm-up that takes its time is no hang.
    Raises RuntimeError when the model gives no usable token: such a pod must not become ready.
    """
    room = core.scheduler.max_model_len - _ANSWER_TOKENS - 1
    vocabulary = core.model.shape.vocabulary
    prompt = [token % vocabulary for token in range(7, 7 + max(1, min(_PROMPT_TOKENS, room)))]
    drawn = Sampling(temperature=1.0, top_k=50, top_p=0.9, min_p=0.01, seed=1)
    # The batch first: while nothing is known it is one step's work, however slow that step is.
    _generate(core, [(prompt[:4], drawn)] * core.step_time.least_batch, stepped)
    _generate(core, [(prompt, Sampling(temperature=0.0))], stepped)
    core.forget_the_past()


def _generate(core: EngineCore, requests: list[tuple[list[int], Sampling]], stepped: Callable[[], None]) -> None:
    answers = []
    for number, (prompt, sampling) in enumerate(requests):
        answers += core.submit(Submit(f"warm-up-{number}", prompt, _ANSWER_TOKENS, sampling, ignore_eos=True))
    while core.has_work:
        answers += core.step()
        stepped()
    errors = [answer.error for answer in answers if answer.finish == "error"]
    if errors or not answers:
        raise RuntimeError(f"The warm-up generation failed: {errors[0] if errors else 'no token came'}")
