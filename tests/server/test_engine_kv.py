"""The block pool and the tables: who owns what, what is found again, and in which order free blocks are taken."""

from __future__ import annotations

import pytest

from server.engine_traffic import BLOCK, Contents, new_scheduler, run, sequence
from topmast_server.engine.kv import BlockPool
from topmast_server.engine.kv_peak import AnswerLengths
from topmast_server.engine.sequence import Sequence
from topmast_server.engine.tables import Tables


def computed(tables: Tables, one: Sequence) -> Sequence:
    """All its tokens are computed."""
    tables.attach(one, tables.cached(one))
    tables.advance(one, one.remaining)
    return one


def test_a_block_with_two_owners_is_free_after_both_release_it() -> None:
    pool = BlockPool(3, BLOCK)
    blocks = pool.take(2)
    assert blocks is not None
    pool.share(blocks)
    pool.release(blocks)
    assert pool.free == 1
    assert pool.take(2) is None
    pool.release(blocks)
    assert pool.free == 3
    with pytest.raises(AssertionError, match="more often"):
        pool.release(blocks)


def test_the_next_turn_of_a_chat_finds_the_answer_too() -> None:
    tables = Tables(BlockPool(20, BLOCK), reuse=True)
    first = computed(tables, sequence(0, list(range(9)), 3))
    first.tokens += [50, 51, 52]
    tables.grow(first)
    tables.advance(first, 3)
    held = list(first.blocks)
    tables.release(first)
    second = sequence(1, [*range(9), 50, 51, 52, 60], 3)
    assert tables.cached(second) == held[:3]


def test_one_token_is_always_left_to_compute() -> None:
    tables = Tables(BlockPool(20, BLOCK), reuse=True)
    prompt = list(range(2 * BLOCK))
    tables.release(computed(tables, sequence(0, prompt, 3)))
    again = sequence(1, prompt, 3)
    tables.attach(again, tables.cached(again))
    assert (again.computed, again.remaining) == (BLOCK, BLOCK)


@pytest.mark.parametrize(
    ("prompt", "salt", "blocks"),
    [
        (list(range(12)), "", 2),
        (list(range(12)), "another's", 0),
        ([9, *range(1, 12)], "", 0),  # the same second block after another first one
        ([0, 1, 2, 3, 4, 5, 6, 9, 8], "", 1),
    ],
)
def test_only_the_same_tokens_after_the_same_tokens_with_the_same_salt_are_found(
    prompt: list[int], salt: str, blocks: int
) -> None:
    tables = Tables(BlockPool(20, BLOCK), reuse=True)
    tables.release(computed(tables, sequence(0, list(range(12)), 3)))
    assert len(tables.cached(sequence(1, prompt, 3, salt=salt))) == blocks


def test_what_is_not_computed_yet_is_not_found() -> None:
    tables = Tables(BlockPool(20, BLOCK), reuse=True)
    prompt = list(range(13))
    first, second = sequence(0, prompt, 3), sequence(1, prompt, 3, at_s=1.0)
    tables.attach(first, tables.cached(first))
    assert tables.cached(second) == []
    assert tables.coming(second, [])
    tables.advance(first, 6)
    assert len(tables.cached(second)) == 1
    tables.release(first)  # it leaves in the middle of its prompt
    assert len(tables.cached(second)) == 1
    assert not tables.coming(second, tables.cached(second))
    assert tables.problems([]) == []


def test_a_tail_is_taken_before_its_head_and_blocks_that_nobody_can_find_before_all() -> None:
    pool = BlockPool(6, BLOCK)
    tables = Tables(pool, reuse=True)
    first = computed(tables, sequence(0, list(range(2 * BLOCK + 1)), 3))  # two full blocks and one begun
    second = computed(tables, sequence(1, list(range(50, 50 + BLOCK)), 3))
    held = [*first.blocks, *second.blocks]
    tables.release(first)
    tables.release(second)
    order = pool.take(6)
    assert order is not None
    assert order[0] == held[2]
    assert order[3:] == [held[1], held[0], held[3]]


def test_what_is_used_again_is_taken_last() -> None:
    pool = BlockPool(4, BLOCK)
    tables = Tables(pool, reuse=True)
    for number in range(3):
        tables.release(computed(tables, sequence(number, [number] * BLOCK, 3)))
    again = computed(tables, sequence(9, [0] * BLOCK + [1], 3))
    kept = again.blocks[0]
    tables.release(again)
    order = pool.take(4)
    assert order is not None
    assert order[-1] == kept


def test_contents_in_doubt_are_not_found_though_others_still_hold_them() -> None:
    pool = BlockPool(20, BLOCK)
    tables = Tables(pool, reuse=True)
    prompt = list(range(9))
    first = computed(tables, sequence(0, prompt, 3))
    second = computed(tables, sequence(1, prompt, 3))
    tables.distrust(second)
    tables.release(second)
    assert tables.cached(sequence(2, prompt, 3)) == []
    tables.release(first)
    assert tables.problems([]) == []
    assert pool.free == 20


def test_without_the_cache_everybody_computes_everything() -> None:
    scheduler = new_scheduler(reuse=False)
    for number in range(3):
        scheduler.add(sequence(number, list(range(40)), 2))
    plans = run(Contents(scheduler))
    assert sum(work.count for plan in plans for work in plan.work) == 3 * (40 + 1)
    assert (scheduler.hit_tokens, scheduler.pool.known) == (0, 0)


def test_books_that_do_not_add_up_are_found_out() -> None:
    tables = Tables(BlockPool(20, BLOCK), reuse=True)
    one = computed(tables, sequence(0, list(range(9)), 3))
    assert tables.problems([one]) == []
    assert "owners" in tables.problems([])[0]
    tables.pool.share(one.blocks[:1])
    assert "have [2] owners" in tables.problems([one])[0]
    tables.reset()
    assert tables.problems([]) == []


def test_recent_answers_say_how_long_one_will_get() -> None:
    lengths = AnswerLengths()
    assert lengths.expected(0, 100) == 100
    assert lengths.expected(0, 10_000) == 512  # without any precedent
    for length in range(1, 101):
        lengths.observe(length)
    assert lengths.expected(0, 1000) == 81
    assert lengths.expected(50, 1000) == 91  # as 80 % of those that got past 50
    assert lengths.expected(0, 20) == 20
    assert lengths.expected(400, 1000) == 800  # longer than any: it is expected to double
    for _ in range(256):
        lengths.observe(7)
    assert lengths.expected(0, 1000) == 7  # the old ones are forgotten
