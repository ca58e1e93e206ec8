"""The chain of a prompt: equal beginnings give equal digests, and different ones never do."""

from __future__ import annotations

import contextlib
import json
import os
import time
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.growth import assert_linear, most_s
from topmast_gateway.messages.completion import MAX_BODY_BYTES
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.requests.parse import parse_completion
from topmast_gateway.routing import prefix_hash
from topmast_gateway.routing.prefix_hash import EMPTY_CHAIN, PrefixChain, session_digest
from topmast_gateway.routing.prefix_index import MOST_BLOCKS_PER_POD, PrefixIndex
from topmast_server.engine.config import EngineConfig
from topmast_server.engine.kv import BlockPool
from topmast_server.engine.sequence import Sequence
from topmast_server.engine.tables import Tables
from topmast_server.messages import Sampling

LONG = "It was a bright cold day in April, and the clocks were striking thirteen. " * 20
Fields = dict[str, Any]


def prefix_chain(fields: Fields) -> PrefixChain:
    """Of a body with these fields."""
    salt = fields.get("cache_salt", "")
    return prefix_hash.prefix_chain({name: json.dumps(value).encode() for name, value in fields.items()}, salt)


def chat(*texts: str, **more: Any) -> Fields:
    roles = ("system", "user", "assistant")
    turns = [{"role": roles[0 if not n else 2 - n % 2], "content": text} for n, text in enumerate(texts)]
    return {"messages": turns, **more}


def shared(one: Fields, other: Fields) -> int:
    """Blocks that two prompts have in common at their beginning."""
    pairs = zip(prefix_chain(one).blocks, prefix_chain(other).blocks, strict=False)
    same = [left == right for left, right in pairs]
    assert same == sorted(same, reverse=True)  # once different, never equal again
    return sum(same)


def engine_digests(tokens: list[int], salt: str) -> list[bytes]:
    """What the engine names its pages."""
    size = EngineConfig.__dataclass_fields__["block_size"].default
    sequence = Sequence("r", tokens, len(tokens), 1, Sampling(), 0, frozenset(), 0, 0.0, salt=salt)
    tables = Tables(BlockPool(1 + len(tokens) // size, size), reuse=True)
    tables.cached(sequence)
    return sequence.digests


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=300), st.sampled_from(["", "a", "tenant-b"]))
def test_token_ids_get_the_engines_own_digests(tokens: list[int], salt: str) -> None:
    blocks = prefix_chain({"prompt": tokens, **({"cache_salt": salt} if salt else {})}).blocks
    theirs = engine_digests(tokens, salt)
    assert list(blocks[: len(theirs)]) == theirs and 0 <= len(blocks) - len(theirs) <= 1


def test_the_next_turn_continues_the_chain_and_keeps_the_anchor() -> None:
    turns = [LONG, "What time is it?", LONG, "And now?", LONG]
    first, second, third = (prefix_chain(chat(*turns[:count])) for count in (2, 4, 5))
    assert first.blocks == second.blocks[: len(first.blocks)] and second.blocks == third.blocks[: len(second.blocks)]
    assert first.anchor == second.anchor == third.anchor and first.opening == third.opening == len(first.blocks)


def test_users_of_one_system_prompt_share_it_and_have_anchors_of_their_own() -> None:
    one, other = chat(LONG, "I am Ann", LONG), chat(LONG, "I am Bob", LONG)
    assert shared(one, other) == len(LONG) // 256
    assert prefix_chain(one).anchor != prefix_chain(other).anchor


@pytest.mark.parametrize(
    "change",
    [
        {"cache_salt": "mine"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"chat_template_kwargs": {"thinking": True}},
    ],
)
def test_what_changes_the_prompts_head_changes_everything(change: Fields) -> None:
    assert shared(chat(LONG, "hello"), chat(LONG, "hello", **change)) == 0
    assert prefix_chain(chat(LONG, "hello")).anchor != prefix_chain(chat(LONG, "hello", **change)).anchor


def test_what_does_not_change_the_prompt_changes_nothing() -> None:
    assert prefix_chain(chat(LONG, "hello")) == prefix_chain(
        chat(LONG, "hello", temperature=0.3, max_tokens=9, user="ann")
    )


def test_parts_of_a_message_count_like_its_text_and_other_parts_count_too() -> None:
    parts = {"messages": [{"role": "system", "content": [{"type": "text", "text": LONG}]}]}
    assert prefix_chain(parts).blocks == prefix_chain(chat(LONG)).blocks
    pictures = [{"messages": [{"role": "user", "content": [{"type": "image_url", "url": f"{n}"}]}]} for n in (1, 2)]
    assert prefix_chain(pictures[0]).anchor != prefix_chain(pictures[1]).anchor
    calls = [{"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": n}]}]} for n in (1, 2)]
    assert prefix_chain(calls[0]).anchor != prefix_chain(calls[1]).anchor


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": None},
        {"prompt": []},
        {"prompt": [1, "a"]},
        {"prompt": [2**70]},
        {"prompt": [{"a": 1}]},
        {"prompt": 7},
        {"messages": "hello"},
    ],
)
def test_nonsense_has_no_chain_and_is_no_error(fields: Fields) -> None:
    assert prefix_chain(fields) == EMPTY_CHAIN


@pytest.mark.parametrize(
    "messages", [[], [None], ["x"], [{"role": 3, "content": 4}], [{"content": [None, 1, [2]]}], [{"content": "\ud800"}]]
)
def test_strange_messages_are_no_error(messages: list[Any]) -> None:
    prefix_chain({"messages": messages})


def test_several_prompts_are_placed_by_the_first() -> None:
    assert prefix_chain({"prompt": [LONG, "other"]}) == prefix_chain({"prompt": LONG})
    assert prefix_chain({"prompt": [[1] * 99, [2]]}) == prefix_chain({"prompt": [1] * 99})


def test_a_huge_prompt_costs_a_bounded_number_of_blocks() -> None:
    assert len(prefix_chain({"prompt": "x" * 4_000_000}).blocks) == 2048
    assert len(prefix_chain({"prompt": [1] * 100_000}).blocks) == 2048
    assert prefix_chain({"prompt": [1] * 100_000}).tokens == 100_000


_PARTS = (
    *("[],", "{},", '{"a":1},', '{"a": 1,"b" :2},', '{"text":""},', "0,", '"x",'),
    '{"role":"user","content":[0,0]},',
)
_BODIES = ('{"messages":[%s0]}', '{"messages":[{"role":"user","content":[%s0]}]}', '{"prompt":[%s0]}')


@pytest.mark.parametrize("part", _PARTS)
@pytest.mark.parametrize("body", _BODIES)
def test_no_body_takes_long(part: str, body: str) -> None:
    """8 MiB of `[],` took 1.4 s of the loop and 170 MiB, and a list of parts up to 20 s."""
    before, after = (piece.encode() for piece in body.split("%s"))

    def read(text: bytes) -> None:
        with contextlib.suppress(ApiError):
            parse_completion("/v1/chat/completions", b'{"model":"m",' + text[1:])

    count = MAX_BODY_BYTES // len(part)
    assert_linear(lambda size: before + part.encode() * (size // len(part)) + after, read, count * len(part))


def test_128_kib_take_about_a_millisecond() -> None:
    """Half of one on a quiet machine."""
    fields, times = chat(os.urandom(32768).hex(), os.urandom(32768).hex()), []
    for _ in range(20):
        started = time.thread_time()
        prefix_chain(fields)
        times.append(time.thread_time() - started)
    assert min(times) < 0.06 * most_s()


def test_a_session_is_a_digest_of_what_was_named() -> None:
    assert (
        session_digest(b"") == b"" and session_digest(b"a") != session_digest(b"b") and len(session_digest(b"a")) == 16
    )


def chain(*names: int) -> PrefixChain:
    return PrefixChain(tuple(array("q", names[: end + 1]).tobytes() for end in range(len(names))))


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), max_size=30), st.integers(1, 20))
def test_a_pods_memory_is_bounded_and_never_has_holes(sent: list[list[int]], most: int) -> None:
    """The search for the deepest known block relies on it."""
    recall = PrefixIndex()
    for names in sent:
        blocks = chain(*names).blocks
        recall.sent("pod", "", blocks, most)
        assert recall.size("pod") <= most
        assert recall.depth("pod", "", blocks) == min(len(blocks), most)
    for names in sent:
        blocks = chain(*names).blocks
        known = [recall.depth("pod", "", blocks[: end + 1]) == end + 1 for end in range(len(blocks))]
        assert recall.depth("pod", "", blocks) == sum(known) and known == sorted(known, reverse=True)


def test_what_a_pod_had_is_forgotten_with_it() -> None:
    recall, blocks = PrefixIndex(), chain(1, 2, 3).blocks
    recall.sent("pod", "monday", blocks)
    assert (recall.depth("pod", "monday", blocks), recall.depth("other", "monday", blocks)) == (3, 0)
    assert recall.depth("pod", "tuesday", blocks) == 0  # it was restarted
    recall.sent("pod", "tuesday", blocks, 10**9)
    assert recall.size("pod") == 3 <= MOST_BLOCKS_PER_POD
    recall.forget({"other"})
    assert recall.size("pod") == 0
