"""Paths that are no model: each is told what it is, and what to give instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.model_files import write_directory
from topmast_server.weights.errors import ModelError
from topmast_server.weights.load import load_weights, outline_weights
from topmast_server.weights.tokenizer import load_tokenizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4920739232\n"
CONFIG = b'{"model_type": "llama"}'


def files(folder: Path, **contents: bytes) -> Path:
    """These files, `__` for a slash and `_DOT_` for a dot in their names."""
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def refusal(path: Path) -> tuple[str, str]:
    """Its code and message, the same of a server that starts and of a check by headers."""
    with pytest.raises(ModelError) as told:
        outline_weights(path)
    with pytest.raises(ModelError) as served:
        load_weights(path, lambda done, total: None)
    assert (told.value.code, told.value.message) == (served.value.code, served.value.message)
    return told.value.code, told.value.message


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (POINTER, "ModelCorrupt", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "ModelCorrupt", "a web page"),
        (b"PK\x03\x04rest", "ModelUnsupported", "convert the model to GGUF or safetensors"),
        (b"\x80\x02}q\x00", "ModelUnsupported", "a pickle of PyTorch"),
        (b"\x1f\x8b\x08", "ModelUnsupported", "unpack it"),
        (b"tjgg\x03\x00\x00\x00", "ModelUnsupported", "before GGUF"),
        (b"", "ModelCorrupt", "is empty"),
        (b"what is this?", "ModelCorrupt", "does not begin with 'GGUF'"),
    ],
)
def test_a_file_that_is_no_gguf_is_told_what_it_is(tmp_path: Path, content: bytes, code: str, words: str) -> None:
    path = files(tmp_path, m_DOT_gguf=content) / "m.gguf"
    found, message = refusal(path)
    assert found == code and message.startswith(str(path)) and words in message


def test_a_name_that_is_not_there_is_told_what_is(tmp_path: Path) -> None:
    files(tmp_path, **{f"m{number}_DOT_gguf": b"" for number in range(5)})
    code, message = refusal(tmp_path / "m.guf")
    assert code == "ModelNotFound" and "does not exist; its folder has" in message
    assert str(tmp_path / "m0.gguf") in message and message.count(".gguf") == 3 + 1 and ", ...;" in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "model.safetensors"])
def test_one_file_of_a_model_is_not_the_model(tmp_path: Path, name: str) -> None:
    folder = write_directory(tmp_path / "m", parts=1 if name == "model.safetensors" else 3)
    code, message = refusal(folder / name)
    assert code == "ModelUnsupported" and "is one file of a model" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m_DOT_gguf", "give one of them: {}/m.gguf"),
        ("sub__config_DOT_json", "give one of them: {}/sub"),
        ("sub__m_DOT_gguf", "give one of them: {}/sub"),
        ("models--org--m__snapshots__abc__config_DOT_json", "{}/models--org--m/snapshots/abc"),
        ("hub__models--org--m__snapshots__abc__config_DOT_json", "{}/hub/models--org--m/snapshots/abc"),
        ("snapshots__abc__config_DOT_json", "{}/snapshots/abc"),
        ("adapter_config_DOT_json", "is a LoRA adapter: give its base model"),
        ("model_index_DOT_json", "diffusers"),
        ("params_DOT_json", "the layout of the model's makers"),
        ("README", "has no config.json"),
    ],
)
def test_a_directory_that_is_no_model_is_told_where_one_is(tmp_path: Path, name: str, words: str) -> None:
    _, message = refusal(files(tmp_path, **{name: CONFIG}))
    assert words.format(tmp_path) in message


def test_an_empty_directory_may_be_a_volume_that_is_not_mounted(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ("ModelNotFound", f"{tmp_path} is empty; is the volume mounted, and the model on it?")


def test_pickles_are_named(tmp_path: Path) -> None:
    code, message = refusal(files(tmp_path, config_DOT_json=CONFIG, pytorch_model_DOT_bin=b"PK\x03\x04"))
    assert code == "ModelUnsupported" and "*.bin files, pickles of PyTorch: convert" in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pointer_among_a_models_files_is_found(tmp_path: Path, name: str) -> None:
    """As `git clone` leaves them without Git LFS."""
    folder = write_directory(tmp_path / "m")
    (folder / name).write_bytes(POINTER)
    code, message = refusal(folder)
    assert code == "ModelCorrupt" and message.startswith(f"{folder / name} is a pointer of Git LFS")


def test_a_tokenizer_may_be_a_pointer_as_well(tmp_path: Path) -> None:
    folder = write_directory(tmp_path / "m")
    (folder / "tokenizer.json").write_bytes(POINTER)
    with pytest.raises(ModelError, match=r"tokenizer\.json is a pointer of Git LFS"):
        load_tokenizer(folder)


def test_a_large_directory_is_not_searched_to_its_end(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"d{number:03}").mkdir()
    files(tmp_path, d140__config_DOT_json=CONFIG)
    assert "has no config.json" in refusal(tmp_path)[1]
