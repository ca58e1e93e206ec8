"""A completion request as the gateway sees it: its bytes, and the few facts that decide how it is carried.

A plain value that every station on its way reads: a Struct, which is made faster than a frozen dataclass. The body is
passed on as it came.
"""

from __future__ import annotations

import msgspec

from topmast_gateway.identity.caller import Priority
from topmast_gateway.routing.prefix_hash import EMPTY_CHAIN, PrefixChain

MAX_BODY_BYTES = 8 * 1024 * 1024
BYTES_PER_TOKEN = 4  # English text; a guess that only has to rank pods


class CompletionRequest(msgspec.Struct, frozen=True):
    """A request for `model`; `tokens` estimates what it will cost a pod, prompt and answer together.

    `no_journal` says why its answer cannot be continued elsewhere once it was started, and is empty where it can: the
    state of a grammar, and several answers at once, are not in the tokens that were passed on. `chain` is what its
    prompt begins with, `session` a digest of what the caller named; both only help to pick a pod.
    """

    path: str
    body: bytes | bytearray
    model: str
    stream: bool
    tokens: int
    no_journal: str = ""
    timeout_s: float | None = None  # the body's own, from the request's arrival
    prompt: int = 0  # of `tokens`
    priority: Priority | None = None  # that it asks for
    chain: PrefixChain = EMPTY_CHAIN
    session: bytes = b""
    fresh: int = 0  # of `prompt`: what no cache is expected to have
    answer: int = 0  # tokens that its answer is expected to have
    answers: int = 1  # that it asks for


def with_field(body: bytes | bytearray, name: str, value: bytes) -> bytes:
    """A JSON object's text with one more field at its end: of two of a name, engines take the last."""
    return b"".join((memoryview(body)[: body.rindex(b"}")], b',"%b":%b}' % (name.encode(), value)))
