"""Second tries are a fraction of the requests, except for what was saved up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.upstream.retry_policy import RetryBudget, RetryBudgets


@given(st.lists(st.booleans(), max_size=400))
def test_second_tries_stay_within_the_share_and_the_savings(comes: list[bool]) -> None:
    """True: a request comes; False: a try breaks."""
    budget = RetryBudget(share=0.2, most=10)
    tries = 0
    for each in comes:
        if each:
            budget.earn()
        else:
            tries += budget.spend()
    assert tries <= 10 + 0.2 * sum(comes) + 1e-6


def test_an_engines_death_is_paid_for_and_a_storm_is_not() -> None:
    budget = RetryBudget()
    assert all(budget.spend() for _ in range(64))
    assert sum(budget.spend() for _ in range(1000)) == 36
    for _ in range(5):
        budget.earn()
    assert budget.spend()
    assert not budget.spend()


def test_the_engines_of_one_model_spend_nothing_of_anothers() -> None:
    budgets = RetryBudgets()
    while budgets.of("team-a/broken").spend():
        pass
    assert not budgets.of("team-a/broken").spend()
    assert budgets.of("team-b/well").spend()


def test_models_that_come_and_go_are_not_remembered_for_ever() -> None:
    budgets = RetryBudgets()
    for number in range(30_000):
        budgets.of(f"team-a/{number}")
    assert len(budgets._budgets) == 10_000
