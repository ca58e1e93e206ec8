"""GGUF files: metadata and where each tensor lies. Loads neither torch nor NumPy; reads no tensor data.

The file is untrusted: every count, length and offset is checked against the file's size before anything is allocated,
and the file is read rather than mapped, so that one cut off under our hands is an error and not a SIGBUS.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from topmast_server.weights.errors import ModelError, corrupt, not_found, unsupported
from topmast_server.weights.model_path import foreign

_MAGIC = b"GGUF"
_MAX_DIMENSIONS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_REMEDY = "fetch the model file again and compare its checksum"

# type number -> (name, weights per block, bytes per block)
TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    8: ("Q8_0", 32, 34),
    20: ("IQ4_NL", 32, 18),
    30: ("BF16", 1, 2),
}
_OTHER_TYPES = {
    **{7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"},
    **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS"},
    **{24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
}


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor: torch's shape (outermost first), type name, and its bytes in the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int  # from the start of the file
    bytes: int


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A checked file: every tensor lies inside it."""

    path: Path
    bytes: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorPlace]

    def need(self, key: str, kind: type) -> Any:
        """A metadata value that the model cannot do without."""
        value = self.metadata.get(key)
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise corrupt(f"{self.path} has no usable {key} in its metadata; {_REMEDY}.")
        return value


class _Reader:
    """A file that refuses to read past its end."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self.file, self.size, self.path, self.at = file, size, path, 0

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            raise corrupt(
                f"{self.path} is cut off or corrupt: {what} needs {count} bytes at offset {self.at}, "
                f"but the file ends at {self.size}; {_REMEDY}."
            )
        data = self.file.read(count)
        if len(data) != count:
            raise corrupt(f"{self.path} became shorter while it was read; {_REMEDY}.")
        self.at += count
        return data

    def number(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def count(self, what: str, least_bytes: int) -> int:
        """A count of items of at least `least_bytes` each, which must fit into the rest of the file."""
        value = int(self.number("Q", what))
        if value * least_bytes > self.size - self.at:
            raise corrupt(f"{self.path} is corrupt: {what} says {value}, more than the file can hold; {_REMEDY}.")
        return value

    def string(self, what: str) -> str:
        return self.take(self.count(f"the length of {what}", 1), what).decode("utf-8", "replace")

    def strings(self, what: str, keep: bool) -> list[str] | None:
        """An array of strings; a vocabulary has a hundred thousand, so this loop is spelt out."""
        kept: list[str] = []
        read, at = self.file.read, self.at + 8
        for _ in range(self.count(f"the length of {what}", 8)):
            length = int.from_bytes(read(8), "little")
            at += 8 + length
            if at > self.size:
                raise corrupt(f"{self.path} is cut off or corrupt: {what} runs past the end of the file; {_REMEDY}.")
            text = read(length)
            if keep:
                kept.append(text.decode("utf-8", "replace"))
        self.at = at
        return kept if keep else None


def read_gguf(path: Path, *, keep: Callable[[str], bool] = lambda key: True) -> GGUFFile:
    """Read and check the header. Arrays whose key `keep` declines are skipped (the engine needs no token list).

    Raises ModelError: ModelNotFound, ModelCorrupt, or ModelUnsupported.
    """
    try:
        with path.open("rb", buffering=1 << 20) as file:
            return _read(_Reader(file, os.fstat(file.fileno()).st_size, path), keep)
    except FileNotFoundError as error:
        raise not_found(f"{path} does not exist; give the path of a .gguf file.") from error
    except OSError as error:
        raise not_found(f"{path} cannot be read: {error.strerror}; check the mount and its permissions.") from error


def _read(reader: _Reader, keep: Callable[[str], bool]) -> GGUFFile:
    path = reader.path
    if reader.size < len(_MAGIC) or reader.take(len(_MAGIC), "the magic number") != _MAGIC:
        raise foreign(path) or corrupt(f"{path} is not a GGUF file: it does not begin with 'GGUF'; {_REMEDY}.")
    version = reader.number("I", "the version")
    if version not in (2, 3):
        raise unsupported(f"{path} is GGUF version {version}; versions 2 and 3 (little-endian) are read.")
    tensor_count = reader.count("the number of tensors", 24)
    metadata: dict[str, Any] = {}
    for _ in range(reader.count("the number of metadata entries", 13)):
        key = reader.string("a metadata key")
        metadata[key] = _value(reader, int(reader.number("I", f"the type of {key}")), key, keep)
    heads = [_tensor_head(reader) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise corrupt(f"{path} has the alignment {alignment}; {_REMEDY}.")
    start = -(-reader.at // alignment) * alignment
    tensors: dict[str, TensorPlace] = {}
    for name, shape, type_name, offset, size in heads:
        if name in tensors:
            raise corrupt(f"{path} is corrupt: the tensor {name} is there twice; {_REMEDY}.")
        if start + offset + size > reader.size:
            raise corrupt(
                f"{path} is cut off: tensor {name} ends at byte {start + offset + size}, "
                f"but the file has {reader.size}; {_REMEDY}."
            )
        tensors[name] = TensorPlace(name, shape, type_name, start + offset, size)
    return GGUFFile(path, reader.size, metadata, tensors)


def _tensor_head(reader: _Reader) -> tuple[str, tuple[int, ...], str, int, int]:
    name = reader.string("a tensor's name")
    dimensions = reader.number("I", f"the dimensions of {name}")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise corrupt(f"{reader.path} is corrupt: tensor {name} has {dimensions} dimensions; {_REMEDY}.")
    inner_first = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions, f"the shape of {name}"))
    number = reader.number("I", f"the type of {name}")
    offset = reader.number("Q", f"the offset of {name}")
    if number not in TENSOR_TYPES:
        raise _foreign_type(reader.path, name, number)
    type_name, block, block_bytes = TENSOR_TYPES[number]
    weights = 1
    for size in inner_first:
        weights *= size
    if weights == 0 or inner_first[0] % block:
        raise corrupt(f"{reader.path} is corrupt: tensor {name} has the shape {inner_first}; {_REMEDY}.")
    return name, tuple(reversed(inner_first)), type_name, offset, weights // block * block_bytes


def _foreign_type(path: Path, name: str, number: int) -> ModelError:
    if number not in _OTHER_TYPES:
        return corrupt(f"{path} is corrupt: tensor {name} has the unknown type {number}; {_REMEDY}.")
    readable = ", ".join(entry[0] for entry in TENSOR_TYPES.values())
    return unsupported(
        f"{path} stores {name} as {_OTHER_TYPES[number]}, which this server does not read; "
        f"use a file of one of these types: {readable}."
    )


def _value(reader: _Reader, kind: int, key: str, keep: Callable[[str], bool]) -> Any:
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind], key)
    if kind == _STRING:
        return reader.string(key)
    if kind != _ARRAY:
        raise corrupt(f"{reader.path} is corrupt: {key} has the unknown type {kind}; {_REMEDY}.")
    element = int(reader.number("I", f"the element type of {key}"))
    if element == _STRING:
        return reader.strings(key, keep(key))
    if element not in _SCALARS:
        raise corrupt(f"{reader.path} is corrupt: {key} is an array of type {element}; {_REMEDY}.")
    size = struct.calcsize("<" + _SCALARS[element])
    count = reader.count(f"the length of {key}", size)
    data = reader.take(count * size, key)
    return list(struct.unpack(f"<{count}{_SCALARS[element]}", data)) if keep(key) else None
