"""Logits of three shapes, because samplers that search for a threshold are fast on some rows and slow on others."""

from __future__ import annotations

import torch
from torch import Tensor

DISTRIBUTIONS = ("llm-like", "normal", "peaked")


def make_logits(kind: str, rows: int, vocabulary: int, seed: int, device: torch.device) -> Tensor:
    """bf16 [rows, vocabulary]. normal: standard deviation 1, the widest nucleus. llm-like: 2.5, and 20 tokens 10 to 20
    above. peaked: 2.5, and one token at 25.
    """
    generator = torch.Generator(device).manual_seed(seed)
    body = torch.randn(rows, vocabulary, generator=generator, device=device)
    if kind == "normal":
        return body.bfloat16()
    spikes = min(20 if kind == "llm-like" else 1, vocabulary)
    at = torch.rand(rows, vocabulary, generator=generator, device=device).topk(spikes, dim=1).indices
    height = 10 + 10 * torch.rand(rows, spikes, generator=generator, device=device)
    return (2.5 * body).scatter_(1, at, height if kind == "llm-like" else torch.full_like(height, 25.0)).bfloat16()
