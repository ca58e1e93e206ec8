"""Model directories: random small Llamas saved by transformers give transformers' logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from topmast_server.models.batch import Batch, Span
from topmast_server.models.kernels import load_kernels
from topmast_server.models.llama import Llama
from topmast_server.models.precision import Precision
from topmast_server.weights.errors import ModelError
from topmast_server.weights.files import Place
from topmast_server.weights.load import load_weights

BASE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": [3, 5],
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"head_dim": 48},
    "one kv head": {"num_key_value_heads": 1},
    "llama 3 rope": {"rope_parameters": LLAMA3},
    "odd sizes, which the compiled kernels decline": {"hidden_size": 40, "intermediate_size": 72, "head_dim": 10},
}


def save(folder: Path, dtype: torch.dtype = torch.float32, shard: str = "5GB", **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**{**BASE, **changes, "initializer_range": 0.2})
    model = LlamaForCausalLM(config).eval().to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return model.float()


def logits(model: Llama, tokens: np.ndarray) -> torch.Tensor:
    """All rows' logits, in a prefill of 20 tokens and then one token at a time."""
    rows = []
    for start, count in [(0, 20), *((at, 1) for at in range(20, len(tokens)))]:
        batch = Batch(
            tokens=tokens[start : start + count],
            positions=np.arange(start, start + count),
            spans=[Span(0, start, count, 0)],
            tables=np.array([[5, 2, 7, 1]], np.int32),
            sampled_rows=np.arange(count),
        )
        rows.append(torch.from_numpy(model.forward(batch).copy()))
    return torch.cat(rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers(tmp_path: Path, variant: str) -> None:
    oracle = save(tmp_path, **VARIANTS[variant])
    weights = load_weights(tmp_path, lambda done, total: None)
    assert weights.stop_ids == (3, 5)
    assert weights.parameters == sum(p.numel() for p in oracle.parameters())
    tokens = np.random.default_rng(1).integers(0, 160, 30)
    with torch.inference_mode():
        expected = oracle(torch.from_numpy(tokens)[None]).logits[0]
    model = Llama(weights, Precision.FLOAT32, 8, 16, 64)
    torch.testing.assert_close(logits(model, tokens), expected, atol=1e-4, rtol=1e-4)
    assert model.compilable == ("odd" not in variant)
    if model.compilable:
        model.use(load_kernels())
        own_embedding = weights.head is not weights.embedding
        assert len(model._packed) == 4 * weights.shape.layers + 1 + own_embedding, "tied weights are kept once"
        model.cache.zero_()
        torch.testing.assert_close(logits(model, tokens), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("place", [Place("ext4", False), Place("nfs4", True)], ids=str)
def test_shards_and_bfloat16_are_read(tmp_path: Path, place: Place) -> None:
    oracle = save(tmp_path, torch.bfloat16, shard="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    seen: list[tuple[int, int]] = []
    weights = load_weights(tmp_path, lambda done, total: seen.append((done, total)), place)
    expected = oracle.model.layers[2].mlp.down_proj.weight.detach().numpy()
    assert np.array_equal(weights.layers[2].down.dense(), expected)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert seen[0] == (0, size) and seen[-1] == (size, size)
    assert seen == sorted(seen) and len(seen) > 4


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "ModelUnsupported", "GPT2LMHeadModel"),
        ({"attention_bias": True}, "ModelUnsupported", "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "ModelUnsupported", "GGUF"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "ModelUnsupported", "yarn"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "ModelCorrupt", "rotary|rope"),
        ({"hidden_size": 65}, "ModelCorrupt", "config.json asks for"),
        ({"hidden_size": "many"}, "ModelCorrupt", "hidden_size"),
        ({"num_hidden_layers": 4}, "ModelCorrupt", "model.layers.3"),
        ({"num_key_value_heads": 3}, "ModelCorrupt", "heads"),
    ],
)
def test_a_directory_that_cannot_be_served_says_why(
    tmp_path: Path, change: dict[str, Any], code: str, sentence: str
) -> None:
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=sentence) as caught:
        load_weights(tmp_path, lambda done, total: None)
    assert caught.value.code == code


@pytest.mark.parametrize("place", [Place("ext4", False), Place("nfs4", True)], ids=str)
def test_truncated_and_missing_files_are_named(tmp_path: Path, place: Place) -> None:
    save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is cut off or corrupt") as caught:
        load_weights(tmp_path, lambda done, total: None, place)
    assert caught.value.code == "ModelCorrupt"
    path.unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors file") as caught:
        load_weights(tmp_path, lambda done, total: None, place)
    assert caught.value.code == "ModelNotFound"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load_weights(tmp_path, lambda done, total: None, place)
