"""The requests of a load: a seeded mix of routes, lengths, sampling and streaming, whose answers are reproducible."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

_PROMPTS = (
    "Name three colours of the rainbow.",
    "What is the capital of Japan?",
    "Write one sentence about a ship.",
    "Count from one to twenty, in words.",
    "Why is the sky blue?",
    "Translate to French: the cat sleeps on the old stone wall.",
    "Tell me a story about a lighthouse keeper and a whale.",
    "Write the word for water in Chinese, Greek and Russian: 水, νερό, вода. Then repeat 🚢🌈 five times.",
)
_LENGTHS = (8, 12, 16, 24, 40, 64, 120, 200)
_WEIGHTS = (3, 3, 3, 3, 3, 2, 1, 1)  # many short answers, few long ones: 40 tokens on average


@dataclass(frozen=True)
class Ask:
    """One request. `fields` is its body without the model's name."""

    number: int
    path: str  # below /v1/
    fields: dict[str, Any]
    by_sdk: bool

    @property
    def streams(self) -> bool:
        return bool(self.fields.get("stream"))


def mixed(count: int, seed: int) -> list[Ask]:
    """`count` different requests; the same ones for the same seed. One in five goes through OpenAI's SDK."""
    draw = random.Random(seed)
    return [_one(number, draw) for number in range(count)]


def long(count: int, tokens: int = 200) -> list[Ask]:
    """Streams of many tokens, for a fault to meet: half greedy, half sampled, numbered from 1000."""
    asks = []
    for number in range(count):
        sampling = {"temperature": 1, "seed": number} if number % 2 else {"temperature": 0}
        fields = {"messages": [{"role": "user", "content": _PROMPTS[number % len(_PROMPTS)]}], "max_tokens": tokens}
        fields |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}, **sampling}
        asks.append(Ask(1000 + number, "chat/completions", fields, by_sdk=number % 5 == 4))
    return asks


def _one(number: int, draw: random.Random) -> Ask:
    prompt = f"{draw.choice(_PROMPTS)} ({draw.randrange(1000)})"
    fields: dict[str, Any] = {"max_tokens": draw.choices(_LENGTHS, _WEIGHTS)[0]}
    if draw.random() < 0.6:
        fields |= {"temperature": 1, "seed": draw.randrange(2**31), "top_p": draw.choice((1.0, 0.9))}
    else:
        fields |= {"temperature": 0}
    if draw.random() < 0.5:
        fields["ignore_eos"] = True  # as long as asked for, past the end that the model would choose
    if draw.random() < 0.15:
        fields["stop"] = ["\n\n", "whale"]
    if draw.random() < 0.7:
        fields["stream"] = True
        if draw.random() < 0.8:
            fields["stream_options"] = {"include_usage": True}
    chat = draw.random() < 0.6
    fields |= {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    return Ask(number, "chat/completions" if chat else "completions", fields, by_sdk=number % 5 == 4)
