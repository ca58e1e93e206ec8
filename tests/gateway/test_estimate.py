"""Estimates follow what engines say of a model's prompts, and nobody can make them small for everybody."""

from __future__ import annotations

from topmast_gateway.estimate import Estimates
from topmast_gateway.request import Ask
from topmast_gateway.tally import Tally


def an_ask(size: int) -> Ask:
    return Ask("/v1/completions", b"x" * size, "m", False, tokens=size // 4 + 50, prompt=size // 4)


def test_a_model_whose_tokens_are_longer_is_asked_for_fewer() -> None:
    estimates = Estimates()
    assert estimates.better(an_ask(8000), "m") == an_ask(8000)
    for _ in range(200):
        estimates.learn(8000, "m", Tally(prompt=1000, exact=True))
    better = estimates.better(an_ask(8000), "m")
    assert better.prompt == 1000 and better.tokens == 1050
    assert estimates.better(an_ask(8000), "another") == an_ask(8000)


def test_what_is_no_exact_account_of_a_prompt_teaches_nothing() -> None:
    estimates = Estimates()
    estimates.learn(8000, "m", Tally(prompt=1000))
    estimates.learn(8000, "m", Tally(output=5, exact=True))
    assert estimates.better(an_ask(8000), "m") == an_ask(8000)


def test_bodies_full_of_other_things_do_not_make_prompts_look_free() -> None:
    estimates = Estimates()
    for _ in range(1000):
        estimates.learn(8_000_000, "m", Tally(prompt=1, exact=True))
    assert estimates.better(an_ask(8000), "m").prompt >= 500  # a quarter of the first guess
