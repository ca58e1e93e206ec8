"""The door: nothing slips through in a burst, nothing leaks, and a refusal says when and why."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topmast_server.api.admission import Admission, Limits, Wanted, answer_tokens, refuse_endless_text
from topmast_server.api.errors import ApiError

LIMITS = Limits(
    max_sequences=4,
    max_num_seqs=4,
    max_waiting_tokens=100,
    max_context_tokens=1000,
    prefill_tokens_per_s=50.0,
    decode_tokens_per_s=100.0,
    ttft_target_s=1000.0,
)
ONE = Wanted(1)


def test_a_burst_before_tokenising_is_counted() -> None:
    door = Admission(LIMITS)
    for _ in range(4):
        door.enter(Wanted(1, body_bytes=40))
    with pytest.raises(ApiError) as caught:
        door.enter(Wanted(1, body_bytes=40))
    assert caught.value.status == 503
    assert caught.value.retry_after_s == 21  # the next end: 256 tokens, four at a time, at half of 100 tokens a second
    assert "4 sequences" in caught.value.message


def test_more_answers_than_the_server_ever_holds_are_a_bad_request() -> None:
    """They got 503 and "try again" for ever."""
    door = Admission(LIMITS)
    door.enter(Wanted(4)).leave()
    with pytest.raises(ApiError, match=r"5 answers .* holds 4 sequences") as caught:
        door.enter(Wanted(5))
    assert (caught.value.status, caught.value.param, door.sequences) == (400, "n", 0)


def test_waiting_tokens_are_bounded_and_retry_after_grows_with_them() -> None:
    door = Admission(
        replace(LIMITS, max_sequences=100, max_num_seqs=100, max_waiting_tokens=1000, max_context_tokens=2000)
    )
    door.enter(ONE).correct(900)
    late = door.enter(ONE)
    with pytest.raises(ApiError) as caught:
        late.correct(101)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 18)
    assert (door.sequences, door.waiting_tokens) == (1, 900)


def test_an_empty_queue_takes_a_prompt_larger_than_the_queue() -> None:
    door = Admission(LIMITS)
    with door.enter(ONE) as ticket:
        ticket.correct(999)
        ticket.prefilled()
        assert door.waiting_tokens == 0
        assert door.sequences == 1
    assert door.sequences == 0


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 400), st.integers(0, 120), st.booleans()), max_size=20))
def test_whatever_happens_everything_is_given_back(requests: list[tuple[int, int, int, bool]]) -> None:
    door = Admission(LIMITS)
    tickets = []
    for sequences, body_bytes, tokens, prefilled in requests:
        try:
            ticket = door.enter(Wanted(sequences, body_bytes))
            tickets.append(ticket)
            ticket.correct(tokens)
        except ApiError:
            continue
        if prefilled:
            ticket.prefilled()
        assert 0 <= door.sequences <= LIMITS.max_sequences
    for ticket in tickets:
        ticket.leave()
        ticket.leave()
    assert (door.sequences, door.waiting_tokens) == (0, 0)


def test_the_answer_may_fill_the_context_unless_the_caller_says_otherwise() -> None:
    assert answer_tokens(100, None, 1000) == 900
    assert answer_tokens(100, 900, 1000) == 900


def test_a_prompt_and_answer_that_never_fit_are_refused_with_all_the_numbers() -> None:
    with pytest.raises(ApiError) as caught:
        answer_tokens(100, 901, 1000)
    assert caught.value.status == 400
    assert all(number in caught.value.message for number in ("100", "901", "1001", "1000", "900"))
    with pytest.raises(ApiError, match=r"1000 tokens, but this model's context is 1000 tokens"):
        answer_tokens(1000, None, 1000)


def test_endless_text_is_refused_before_it_is_tokenised() -> None:
    refuse_endless_text("a" * 9_999, 10, 1000)
    with pytest.raises(ApiError, match="at least 1000 tokens"):
        refuse_endless_text("a" * 10_000, 10, 1000)
