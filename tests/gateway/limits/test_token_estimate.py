"""Estimates follow what engines say of a model's prompts, and nobody can make them small for everybody."""

from __future__ import annotations

from topmast_gateway.limits.token_estimate import TokenEstimator
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.token_usage import TokenUsage


def a_request(size: int) -> CompletionRequest:
    return CompletionRequest("/v1/completions", b"x" * size, "m", False, tokens=size // 4 + 50, prompt=size // 4)


def test_a_model_whose_tokens_are_longer_is_asked_for_fewer() -> None:
    estimates = TokenEstimator()
    assert estimates.refined(a_request(8000), "m") == a_request(8000)
    for _ in range(200):
        estimates.learn(8000, "m", TokenUsage(prompt=1000, exact=True))
    better = estimates.refined(a_request(8000), "m")
    assert better.prompt == 1000 and better.tokens == 1050
    assert estimates.refined(a_request(8000), "another") == a_request(8000)


def test_what_caches_have_and_how_long_answers_are_is_learnt_too() -> None:
    estimates = TokenEstimator()
    for _ in range(200):
        estimates.learn(4000, "m", TokenUsage(prompt=1000, cached=750, output=12, exact=True))
        estimates.learn(400, "m", TokenUsage(prompt=100, cached=0, output=36, exact=True))
    better = estimates.refined(a_request(4000), "m")
    assert better.prompt == 1000 and 22 <= better.answer <= 26
    assert 300 <= better.fresh <= 340  # 350 of 1100 tokens had to be computed: by tokens, not by requests


def test_what_is_no_exact_account_of_a_prompt_teaches_nothing() -> None:
    estimates = TokenEstimator()
    estimates.learn(8000, "m", TokenUsage(prompt=1000))
    estimates.learn(8000, "m", TokenUsage(output=5, exact=True))
    assert estimates.refined(a_request(8000), "m") == a_request(8000)


def test_bodies_full_of_other_things_do_not_make_prompts_look_free() -> None:
    estimates = TokenEstimator()
    for _ in range(1000):
        estimates.learn(8_000_000, "m", TokenUsage(prompt=1, exact=True))
    assert estimates.refined(a_request(8000), "m").prompt >= 500  # a quarter of the first guess
