"""Which file of a model directory holds which tensor, told by headers alone.

A directory that was copied in part, or that holds another model's file too, loads and answers nonsense. So an index
counts word by word where there is one, and without one no two files may define the same tensor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from topmast_server.weights.errors import corrupt, not_found
from topmast_server.weights.json_files import read_json
from topmast_server.weights.model_path import foreign

_INDEX: Final = "model.safetensors.index.json"
_PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_REMEDY: Final = "fetch the model's files again"


@dataclass(frozen=True, slots=True)
class ShardTensor:
    """One tensor as its file's header describes it; `dtype` is the format's name of it, like BF16."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_shards(folder: Path) -> dict[str, ShardTensor]:
    """A directory's tensors by name: those of the index where there is one, else those of all *.safetensors files.

    Raises ModelError: ModelNotFound where no weights are there at all or a file cannot be read, else ModelCorrupt.
    """
    if (folder / _INDEX).exists():
        return _indexed(folder)
    # macOS leaves ._NAME beside NAME on volumes of other systems; these hold no tensors.
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("._"))
    if not files:
        raise not_found(f"{folder} has no *.safetensors file; give a .gguf file or a safetensors directory.")
    _require_all_parts(files)
    tensors: dict[str, ShardTensor] = {}
    for file in files:
        for name, tensor in _header(file).items():
            if name in tensors:
                raise corrupt(
                    f"{folder} has two files that hold {name}, {tensors[name].file.name} and {file.name}, and no index "
                    "that tells which one counts; remove the file that is not the model's."
                )
            tensors[name] = tensor
    return tensors


def _indexed(folder: Path) -> dict[str, ShardTensor]:
    files = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise corrupt(f"{folder / _INDEX} has no usable weight_map; {_REMEDY}.")
    headers = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file:
            raise corrupt(f"{folder / _INDEX} names the file {file!r} outside of its own folder; {_REMEDY}.")
        if not (folder / file).is_file():
            raise corrupt(f"{folder} lacks {file}, which {_INDEX} names; {_REMEDY}.")
        headers[file] = _header(folder / file)
    for name, file in files.items():
        if name not in headers[file]:
            raise corrupt(f"{folder / file} has no tensor {name}, which {_INDEX} says is there; {_REMEDY}.")
    return {name: headers[file][name] for name, file in files.items()}


def _require_all_parts(files: list[Path]) -> None:
    """Names like model-00002-of-00003.safetensors tell what is missing where the index was not copied either."""
    there = {path.name for path in files}
    for path in files:
        if match := _PART.fullmatch(path.name):
            stem, count = match[1], match[3]
            for part in range(1, int(count) + 1):
                name = f"{stem}-{part:05}-of-{count}.safetensors"
                if name not in there:
                    raise corrupt(f"{path.parent} lacks {name}; {_REMEDY}.")


def _header(path: Path) -> dict[str, ShardTensor]:
    """The library maps the file, reads its header alone, and checks that the tensors fill the rest exactly."""
    try:
        file: Any = safe_open(path, framework="np")
        slices = {name: file.get_slice(name) for name in list(file.keys())}
        return {name: ShardTensor(path, one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except SafetensorError as error:
        raise foreign(path) or corrupt(f"{path} is cut off or corrupt ({error}); {_REMEDY}.") from error
    except OSError as error:
        raise not_found(f"{path} cannot be read: {error}; check the mount and its permissions.") from error
