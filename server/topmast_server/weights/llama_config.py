"""config.json of a Llama-family model directory; what this server has no code for is refused by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from topmast_server.weights.errors import corrupt, unsupported
from topmast_server.weights.json_files import read_json, stop_ids_of
from topmast_server.weights.matrix import Llama3Scaling, LlamaShape

_ARCHITECTURES: Final = ("LlamaForCausalLM", "MistralForCausalLM")
_REMEDY: Final = "fetch the model's files again"


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Everything about a model's weights that is not in their files."""

    shape: LlamaShape
    tied: bool  # the head is the embedding
    stop_ids: tuple[int, ...]


def read_llama_config(folder: Path) -> LlamaConfig:
    """Raises ModelError: ModelUnsupported for other models, ModelCorrupt for values that make no sense."""
    config = read_json(folder / "config.json")
    generation = read_json(folder / "generation_config.json", optional=True)
    # A head that is merely absent is not tied: a shard with nothing but the head is easily lost.
    tied = config.get("tie_word_embeddings", False) is True
    return LlamaConfig(_shape(folder, config), tied, tuple(sorted(stop_ids_of(config, generation))))


def _shape(folder: Path, config: dict[str, Any]) -> LlamaShape:
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else "none"
    if architecture not in _ARCHITECTURES:
        known = " and ".join(_ARCHITECTURES)
        raise unsupported(f"{folder} holds the architecture {architecture!r}; {known} are read.")
    for key, plain in (
        ("attention_bias", False),
        ("mlp_bias", False),
        ("hidden_act", "silu"),
        ("sliding_window", None),
    ):
        if config.get(key, plain) != plain:
            raise unsupported(f"{folder}/config.json sets {key} to {config[key]!r}; only {plain!r} is supported.")
    if config.get("quantization_config"):
        raise unsupported(f"{folder} is quantised; use an unquantised directory, or a GGUF file in Q4_0, Q4_1 or Q8_0.")

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key) if config.get(key) is not None else default
        if isinstance(value, float) and value.is_integer():  # some tools write 131072.0
            value = int(value)
        if not isinstance(value, int) or not 0 < value < 1 << 31:
            raise corrupt(f"{folder}/config.json says {key} = {value!r}; {_REMEDY}.")
        return value

    def real(key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise corrupt(f"{folder}/config.json says {key} = {value!r}; {_REMEDY}.")
        return float(value)

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    kv_heads = number("num_key_value_heads", heads)
    if heads % kv_heads:
        raise corrupt(f"{folder}/config.json has {heads} heads for {kv_heads} key-value heads; {_REMEDY}.")
    head_size = number("head_dim", hidden // heads)
    if head_size % 2:
        raise corrupt(f"{folder}/config.json has heads of the odd size {head_size}; {_REMEDY}.")
    # Newer configurations keep everything rotary under rope_parameters.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise corrupt(f"{folder}/config.json has rope parameters that are no object; {_REMEDY}.")
    return LlamaShape(
        vocabulary=number("vocab_size"),
        hidden=hidden,
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        mlp=number("intermediate_size"),
        context=number("max_position_embeddings", 2048),
        epsilon=real("rms_norm_eps", config.get("rms_norm_eps", 1e-6)),
        rope_base=real("rope_theta", rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        rope_interleaved=False,
        rope_scaling=_scaling(folder, rope),
    )


def _scaling(folder: Path, rope: dict[str, Any]) -> Llama3Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise unsupported(f"{folder} scales its rotary positions by {kind!r}; unscaled and Llama 3's are read.")
    try:
        return Llama3Scaling(
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise corrupt(f"{folder}/config.json has broken rope parameters ({error}); {_REMEDY}.") from error
