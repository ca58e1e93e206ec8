"""A small Llama directory as Hugging Face lays it out, without torch: config, tokenizer, and shards of zeros."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HIDDEN, MLP, LAYERS, HEADS, KV_HEADS, TOKENS = 64, 96, 2, 4, 2, 256
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": TOKENS,
    "max_position_embeddings": 512,
    "eos_token_id": 0,
}
INDEX = "model.safetensors.index.json"


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors that CONFIG asks for."""
    wide, narrow = HIDDEN, HIDDEN // HEADS * KV_HEADS
    of_layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (HIDDEN,),
        "self_attn.q_proj": (wide, HIDDEN),
        "self_attn.k_proj": (narrow, HIDDEN),
        "self_attn.v_proj": (narrow, HIDDEN),
        "self_attn.o_proj": (HIDDEN, wide),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (MLP, HIDDEN),
        "mlp.up_proj": (MLP, HIDDEN),
        "mlp.down_proj": (HIDDEN, MLP),
    }
    layers = {
        f"model.layers.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in of_layer.items()
    }
    outer: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (TOKENS, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (TOKENS, HIDDEN),
    }
    return outer | layers


def part(number: int, count: int) -> str:
    """The name of a shard, from 1 on."""
    return f"model-{number:05}-of-{count:05}.safetensors"


def write_directory(folder: Path, *, parts: int = 1, index: bool = True, **config: Any) -> Path:
    """A whole model; with several parts lm_head lies alone in the last one, as in large models."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    write_tokenizer(folder)
    tensors: dict[str, NDArray[np.float32]] = {name: np.zeros(shape, np.float32) for name, shape in shapes().items()}
    if parts == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    where = {name: part(1 + place % (parts - 1), parts) for place, name in enumerate(tensors)}
    where["lm_head.weight"] = part(parts, parts)
    for file in sorted(set(where.values())):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file)
    if index:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def write_tokenizer(folder: Path) -> None:
    """A token for every byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
