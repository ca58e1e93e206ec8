"""Which file holds which tensor: a directory that is not whole, or holds too much, is never served as if it were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from server.model_files import CONFIG, HIDDEN, INDEX, part, shapes, write_directory
from topmast_server.weights.errors import ModelError
from topmast_server.weights.load import load_weights, outline_weights

STRAY = "model.layers.1.self_attn.q_proj.weight"


def refusal(folder: Path) -> ModelError:
    """What the server says, which is what a check by headers says."""
    with pytest.raises(ModelError) as told:
        outline_weights(folder)
    with pytest.raises(ModelError) as served:
        load_weights(folder, lambda done, total: None)
    assert (served.value.code, served.value.message) == (told.value.code, told.value.message)
    return told.value


def write_stray(folder: Path, name: str = "zz_old_quant.safetensors") -> None:
    save_file({STRAY: np.ones((HIDDEN, HIDDEN), np.float32)}, folder / name)


def test_a_whole_directory_is_read_from_the_files_that_the_index_names(tmp_path: Path) -> None:
    write_directory(tmp_path, parts=3)
    weights = load_weights(tmp_path, lambda done, total: None)
    outline = outline_weights(tmp_path)
    assert weights.parameters == outline.parameters == sum(int(np.prod(shape)) for shape in shapes().values())
    assert weights.bytes == outline.bytes
    assert (weights.shape, weights.stop_ids, weights.format) == (outline.shape, outline.stop_ids, outline.format)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_missing_shard_is_named_even_if_it_held_the_head_alone(tmp_path: Path, lost: int, index: bool) -> None:
    write_directory(tmp_path, parts=3, index=index)
    (tmp_path / part(lost, 3)).unlink()
    error = refusal(tmp_path)
    assert error.code == "ModelCorrupt"
    assert f"lacks {part(lost, 3)}" in error.message and "fetch" in error.message


def test_a_head_that_is_in_no_file_is_not_taken_for_tied(tmp_path: Path) -> None:
    write_directory(tmp_path, parts=2)
    (tmp_path / INDEX).unlink()
    (tmp_path / part(2, 2)).unlink()
    (tmp_path / part(1, 2)).rename(tmp_path / "model.safetensors")
    assert "has no tensor lm_head.weight" in refusal(tmp_path).message
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    weights = load_weights(tmp_path, lambda done, total: None)
    assert weights.head is weights.embedding


def test_a_stray_file_beside_an_index_changes_nothing(tmp_path: Path) -> None:
    write_directory(tmp_path, parts=3)
    write_stray(tmp_path)
    seen: list[int] = []
    weights = load_weights(tmp_path, lambda done, total: seen.append(total))
    assert not weights.layers[1].query.dense().any()
    assert seen[-1] == sum((tmp_path / part(number, 3)).stat().st_size for number in (1, 2, 3))


def test_two_files_with_one_tensor_and_no_index_are_both_named(tmp_path: Path) -> None:
    write_directory(tmp_path)
    write_stray(tmp_path)
    error = refusal(tmp_path)
    assert error.code == "ModelCorrupt"
    assert all(word in error.message for word in ("model.safetensors", "zz_old_quant.safetensors", STRAY, "remove"))


def test_what_macos_leaves_beside_files_is_not_read(tmp_path: Path) -> None:
    write_directory(tmp_path)
    (tmp_path / "._model.safetensors").write_bytes(b"Mac OS X        ")
    assert load_weights(tmp_path, lambda done, total: None).format == "safetensors"


def test_a_broken_link_is_a_missing_shard(tmp_path: Path) -> None:
    # A copy of a download cache's snapshot without the blobs that it links to.
    write_directory(tmp_path, parts=2)
    (tmp_path / part(1, 2)).unlink()
    (tmp_path / part(1, 2)).symlink_to("../../blobs/none")
    assert f"lacks {part(1, 2)}" in refusal(tmp_path).message


def change_map(change: Callable[[dict[str, str]], None]) -> Callable[[Path], None]:
    def apply(index: Path) -> None:
        content = json.loads(index.read_text())
        change(content["weight_map"])
        index.write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda index: index.write_text("{"), "cannot be read"),
        (lambda index: index.write_text("[]"), "not a JSON object"),
        (lambda index: index.write_text("{}"), "no usable weight_map"),
        (lambda index: index.write_text('{"weight_map": {"lm_head.weight": 3}}'), "no usable weight_map"),
        (change_map(lambda files: files.update({"lm_head.weight": "../x.safetensors"})), "outside of its own folder"),
        (change_map(lambda files: files.update({"lm_head.weight": part(1, 3)})), "has no tensor lm_head.weight"),
        (change_map(lambda files: files.pop(STRAY)), f"has no tensor {STRAY}"),  # type: ignore[arg-type, return-value]
    ],
)
def test_an_index_that_is_wrong_is_refused(tmp_path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    write_directory(tmp_path, parts=3)
    damage(tmp_path / INDEX)
    error = refusal(tmp_path)
    assert error.code == "ModelCorrupt" and sentence in error.message


@pytest.mark.parametrize(("dtype", "readable"), [("F16", True), ("F8_E4M3", False), ("I8", False)])
def test_only_floats_that_need_no_scale_are_read(tmp_path: Path, dtype: str, readable: bool) -> None:
    write_directory(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    at = 0
    for tensor in (value for name, value in header.items() if name != "__metadata__"):
        tensor["dtype"] = dtype
        size = int(np.prod(tensor["shape"])) * (2 if dtype == "F16" else 1)
        tensor["data_offsets"] = [at, at + size]
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    if readable:
        assert load_weights(tmp_path, lambda done, total: None).bytes == outline_weights(tmp_path).bytes
    else:
        error = refusal(tmp_path)
        assert error.code == "ModelUnsupported" and dtype in error.message


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"rms_norm_eps": None}, "ModelCorrupt", "rms_norm_eps"),
        ({"rope_theta": None}, "ModelCorrupt", "rope_theta"),
        ({"rope_theta": "many"}, "ModelCorrupt", "rope_theta"),
        ({"rope_parameters": 4}, "ModelCorrupt", "rope parameters"),
        ({"eos_token_id": ["x", 1]}, "ModelCorrupt", "eos_token_id"),
        ({"eos_token_id": [[1]]}, "ModelCorrupt", "eos_token_id"),
        ({"head_dim": 15}, "ModelCorrupt", "odd size"),
        ({"architectures": 7}, "ModelUnsupported", "architecture"),
    ],
)
def test_a_faulty_config_is_a_sentence_and_not_a_crash(
    tmp_path: Path, change: dict[str, object], code: str, word: str
) -> None:
    error = refusal(write_directory(tmp_path, **change))
    assert error.code == code and word in error.message


def test_a_whole_number_with_a_point_is_a_number(tmp_path: Path) -> None:
    write_directory(tmp_path, max_position_embeddings=131072.0)
    assert outline_weights(tmp_path).shape.context == 131072
