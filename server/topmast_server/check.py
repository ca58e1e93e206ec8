"""`topmast check`: can this model be served, as far as its files tell without reading the weights?

It runs what `topmast serve` runs before it reads weights, so that the two never disagree: it locates the model, reads
every header, and tries tokenizer and chat template. No torch, no compiled kernels, no HTTP; some megabytes of memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from topmast_server.cli import engine_config
from topmast_server.engine.memory import size_kv, token_bytes
from topmast_server.models.precision import PRECISIONS
from topmast_server.options import Options, parse, termination_log
from topmast_server.source import locate
from topmast_server.supervisor.outcome import Failure, write_termination_log
from topmast_server.weights.chat_template import compile_template
from topmast_server.weights.errors import ModelError
from topmast_server.weights.load import outline_weights
from topmast_server.weights.tokenizer import load_tokenizer, try_out

_ANY_MEMORY_BYTES: Final = 1 << 62  # how much there will be is known on the node that serves


@dataclass(frozen=True, slots=True)
class Found:
    """What a model's files promise; the fields are a contract (docs/contracts.md)."""

    code: str
    message: str
    architecture: str
    format: str  # gguf | safetensors
    parameters: int
    weights_bytes: int  # as they are held in memory, before the kernels' own layout
    kv_bytes_per_token: int
    max_model_len: int

    def as_json(self) -> dict[str, object]:
        """The line."""
        return asdict(self)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON line and write it to the termination log; exit codes as of `topmast serve`, 0 for a good model."""
    options = parse(arguments, "check")
    ending: Found | Failure
    try:
        ending = check(options)
    except ModelError as error:
        ending = Failure(error.code, error.message)
    except Exception as error:
        ending = Failure("Internal", f"the check of {options.model} failed by itself: {error!r}; report this")
    print(json.dumps(ending.as_json()), flush=True)
    write_termination_log(termination_log(options), ending)
    return ending.exit_code if isinstance(ending, Failure) else 0


def check(options: Options) -> Found:
    """Raises ModelError where `topmast serve` would with these flags; with OutOfMemory for flags alone."""
    source = locate(options.model)
    outline = outline_weights(source.path)
    tokenizer = load_tokenizer(source.path)
    try_out(tokenizer, source.path)
    if tokenizer.chat_template is not None:
        compile_template(tokenizer.chat_template)
    _, kv_dtype = PRECISIONS[options.dtype]
    size = size_kv(engine_config(options, str(source.path)), outline.shape, kv_dtype.itemsize, _ANY_MEMORY_BYTES)
    what = f"{outline.architecture}, {outline.parameters / 1e6:,.1f} million weights, {outline.format}"
    return Found(
        code="Ok",
        message=f"{source.path} can be served: {what}",
        architecture=outline.architecture,
        format=outline.format,
        parameters=outline.parameters,
        weights_bytes=outline.bytes,
        kv_bytes_per_token=token_bytes(outline.shape, kv_dtype.itemsize),
        max_model_len=size.max_model_len,
    )


if __name__ == "__main__":
    sys.exit(main())
