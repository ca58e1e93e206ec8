"""What lies at a path that was given for a model and is none, and what to give instead.

Looks at names and at a file's first bytes, and believes neither: what is recognised here is refused, nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from topmast_server.weights.errors import ModelError, corrupt, not_found, unsupported

_LISTED: Final = 3
_LEVELS, _MOST_CHILDREN = 4, 100  # that are searched for models: the directory may be anything
_POINTER: Final = b"version https://git-lfs"
_CONVERT: Final = "convert the model to GGUF or safetensors"
_BEGINNINGS: Final[tuple[tuple[bytes, str], ...]] = (  # of files that are no model files, and what they are
    (_POINTER, "is a pointer of Git LFS and not the file itself: run `git lfs pull`, or fetch the file again"),
    (b"<", "is a web page and not the file itself: its download was answered by one, fetch the file again"),
    (b"PK\x03\x04", f"is a PyTorch or zip archive: {_CONVERT}"),
    (b"\x80\x02", f"is a pickle of PyTorch: {_CONVERT}"),
    (b"\x1f\x8b", "is compressed by gzip: unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd: unpack it"),
    (b"FUGG", "is a big-endian GGUF file: convert the model for little-endian machines"),
    *((old, f"is of llama.cpp before GGUF: {_CONVERT}") for old in (b"lmgg", b"fmgg", b"tjgg", b"algg")),
)
_FILES: Final = (  # in a directory without config.json, and what it is then
    ("adapter_config.json", "is a LoRA adapter: give its base model"),
    ("model_index.json", "is a pipeline of diffusers: this server reads language models"),
    ("params.json", f"is in the layout of the model's makers: {_CONVERT}"),
    ("tekken.json", f"is in the layout of the model's makers: {_CONVERT}"),
)


def foreign(path: Path) -> ModelError | None:
    """Why a file that cannot be read as what it should be never can be, where its first bytes tell."""
    try:
        with path.open("rb") as file:
            beginning = file.read(64).lstrip(b" \t\r\n")
    except OSError:
        return None
    if not beginning:
        return corrupt(f"{path} is empty: fetch it again.")
    for start, what in _BEGINNINGS:
        if beginning.startswith(start):
            return (corrupt if start in (_POINTER, b"<") else unsupported)(f"{path} {what}.")
    return None


def require_model(path: Path) -> None:
    """Raises ModelError where the path is neither a directory with config.json nor a file that may be GGUF."""
    if not path.exists():
        beside = _named(child for child in _children(path.parent) if child.suffix == ".gguf")
        there = f"; its folder has {beside}" if beside else ""
        raise not_found(
            f"{path} does not exist{there}; give a .gguf file or a directory with config.json and *.safetensors."
        )
    if path.is_dir():
        _require_directory(path)
    elif path.suffix == ".safetensors":
        raise unsupported(f"{path} is one file of a model; give the directory that holds it and config.json.")
    elif path.name in ("config.json", "model.safetensors.index.json"):
        raise unsupported(f"{path} is one file of a model; give its directory, {path.parent}.")


def _require_directory(folder: Path) -> None:
    children = list(_children(folder))
    names = {child.name for child in children}
    if "config.json" in names:
        suffixes = {child.suffix for child in children}
        if ".safetensors" not in suffixes and (pickles := suffixes & {".bin", ".pth", ".pt"}):
            raise unsupported(f"{folder} has its weights in *{min(pickles)} files, pickles of PyTorch: {_CONVERT}.")
        return
    if not children:
        raise not_found(f"{folder} is empty; is the volume mounted, and the model on it?")
    if files := _named(child for child in children if child.suffix == ".gguf"):
        raise not_found(f"{folder} is a directory with GGUF files; give one of them: {files}.")
    for name, what in _FILES:
        if name in names:
            raise unsupported(f"{folder} {what}.")
    if models := _named(islice(_models_below(folder, _LEVELS), _LISTED + 1)):
        raise not_found(f"{folder} is no model but has some below it; give one of them: {models}.")
    raise not_found(
        f"{folder} has no config.json; a model directory needs config.json, tokenizer.json and *.safetensors."
    )


def _models_below(folder: Path, levels: int) -> Iterator[Path]:
    """A Hugging Face cache has them four levels down: hub/models--ORG--NAME/snapshots/COMMIT."""
    for child in islice(_children(folder), _MOST_CHILDREN):
        found = list(_children(child))
        if any(one.name == "config.json" or one.suffix == ".gguf" for one in found):
            yield child
        elif levels > 1:
            yield from _models_below(child, levels - 1)


def _children(folder: Path) -> Iterator[Path]:
    """What is in a directory, by name; nothing where it is none, or closed to us. macOS's ._NAME are no files."""
    try:
        yield from sorted(child for child in folder.iterdir() if not child.name.startswith("._"))
    except OSError:
        return


def _named(paths: Iterable[Path]) -> str:
    """The first few of them."""
    found = [str(path) for path in paths]
    return ", ".join(found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
