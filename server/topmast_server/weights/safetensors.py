"""A model directory as Hugging Face lays it out: config.json and one or several *.safetensors files, Llama family."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from topmast_server.weights.errors import ModelError, corrupt, not_found, unsupported
from topmast_server.weights.files import OnProgress, Place, anonymous_copy
from topmast_server.weights.matrix import LayerWeights, Llama3Scaling, LlamaShape, Matrix, ModelWeights, float_matrix
from topmast_server.weights.tokenizer import directory_stop_ids, read_json

_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
_REMEDY = "fetch the model's files again"


def load_safetensors(folder: Path, on_progress: OnProgress, place: Place) -> ModelWeights:
    """Read the directory; weights become float32. Raises ModelError."""
    config = read_json(folder / "config.json")
    shape = _shape(folder, config)
    files = _Files(folder, on_progress, place)
    embedding = files.matrix("model.embed_tokens.weight", shape.vocabulary, shape.hidden)
    wide, narrow = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layers = []
    for index in range(shape.layers):
        at = f"model.layers.{index}."
        layers.append(
            LayerWeights(
                attention_norm=files.vector(at + "input_layernorm.weight", shape.hidden),
                query=files.matrix(at + "self_attn.q_proj.weight", wide, shape.hidden),
                key=files.matrix(at + "self_attn.k_proj.weight", narrow, shape.hidden),
                value=files.matrix(at + "self_attn.v_proj.weight", narrow, shape.hidden),
                attention_out=files.matrix(at + "self_attn.o_proj.weight", shape.hidden, wide),
                mlp_norm=files.vector(at + "post_attention_layernorm.weight", shape.hidden),
                gate=files.matrix(at + "mlp.gate_proj.weight", shape.mlp, shape.hidden),
                up=files.matrix(at + "mlp.up_proj.weight", shape.mlp, shape.hidden),
                down=files.matrix(at + "mlp.down_proj.weight", shape.hidden, shape.mlp),
            )
        )
    tied = bool(config.get("tie_word_embeddings", False)) or "lm_head.weight" not in files.where
    generation = read_json(folder / "generation_config.json", optional=True)
    weights = ModelWeights(
        shape=shape,
        embedding=embedding,
        layers=layers,
        final_norm=files.vector("model.norm.weight", shape.hidden),
        head=embedding if tied else files.matrix("lm_head.weight", shape.vocabulary, shape.hidden),
        stop_ids=tuple(sorted(directory_stop_ids(config, generation))),
        format="safetensors",
    )
    files.finish()
    return weights


def _shape(folder: Path, config: dict[str, Any]) -> LlamaShape:
    architecture = (config.get("architectures") or ["none"])[0]
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
        if not isinstance(value, int) or not 0 < value < 1 << 31:
            raise corrupt(f"{folder}/config.json says {key} = {value!r}; {_REMEDY}.")
        return value

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    kv_heads = number("num_key_value_heads", heads)
    if heads % kv_heads:
        raise corrupt(f"{folder}/config.json has {heads} heads for {kv_heads} key-value heads; {_REMEDY}.")
    # Newer configurations keep everything rotary under rope_parameters.
    rope: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    return LlamaShape(
        vocabulary=number("vocab_size"),
        hidden=hidden,
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=number("head_dim", hidden // heads),
        mlp=number("intermediate_size"),
        context=number("max_position_embeddings", 2048),
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope_base=float(base),
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


class _Shard:
    """One file; its tensors are told by its header, which is all that is read at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: Any = self._opened(str(path))
        self.names = set(self._open.keys())
        self._copied = False

    def copy(self, on_block: Callable[[int], None]) -> None:
        """Read it whole into memory, once."""
        if not self._copied:
            self._copied = True
            descriptor = anonymous_copy(self.path, on_block)
            try:
                self._open = self._opened(f"/proc/self/fd/{descriptor}")
            finally:
                os.close(descriptor)

    def take(self, name: str) -> Any:
        """A tensor, for the last time; the memory goes with the last one."""
        tensor = self._open.get_tensor(name)
        self.names.discard(name)
        if not self.names:
            self._open = None
        return tensor

    def _opened(self, path: str) -> Any:
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise corrupt(f"{self.path} is cut off or corrupt ({error}); {_REMEDY}.") from error


class _Files:
    """Tensors by name over all files of the directory; bfloat16, which NumPy lacks, is read through torch.

    Local files are mapped, remote ones read; either way each tensor is copied to float32 once.
    """

    def __init__(self, folder: Path, on_progress: OnProgress, place: Place) -> None:
        self._folder, self._on_progress, self._done, self._place = folder, on_progress, 0, place
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise not_found(f"{folder} has no *.safetensors file; give a .gguf file or a safetensors directory.")
        self._total = sum(path.stat().st_size for path in paths)
        on_progress(0, self._total)
        self.where = {name: shard for shard in map(_Shard, paths) for name in shard.names}

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        return float_matrix(self._tensor(name, (rows, columns)))

    def vector(self, name: str, size: int) -> NDArray[np.float32]:
        return self._tensor(name, (size,))

    def finish(self) -> None:
        """Headers, and tensors that a Llama does not need, count as done."""
        self._advance(self._total - self._done)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if name not in self.where:
            raise corrupt(f"{self._folder} has no tensor {name}; {_REMEDY}.")
        try:
            if self._place.remote:
                self.where[name].copy(self._advance)
            tensor = self.where[name].take(name)
        except MemoryError as error:
            raise ModelError("OutOfMemory", f"{self._folder} does not fit; raise the memory limit.") from error
        if tuple(tensor.shape) != shape:
            raise corrupt(
                f"{self._folder}: {name} is {list(tensor.shape)}, config.json asks for {list(shape)}; {_REMEDY}."
            )
        if not tensor.is_floating_point():
            raise unsupported(f"{self._folder} stores {name} as {tensor.dtype}; floating-point weights are read.")
        values: NDArray[np.float32] = tensor.float().numpy().copy()
        if not self._place.remote:
            self._advance(tensor.numel() * tensor.element_size())
        return values

    def _advance(self, size: int) -> None:
        self._done += size
        self._on_progress(self._done, self._total)
