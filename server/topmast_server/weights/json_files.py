"""The JSON files of a model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from topmast_server.weights.errors import ModelError, corrupt, not_found
from topmast_server.weights.model_path import foreign


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON object of the model directory; an optional one that is missing is empty. Raises ModelError."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if optional:
            return {}
        raise not_found(f"{path} does not exist; a model directory needs config.json and *.safetensors.") from error
    except (ValueError, OSError, RecursionError) as error:
        raise unreadable(path, error) from error
    if not isinstance(value, dict):
        raise unreadable(path, "it is not a JSON object")
    return value


def unreadable(path: Path, why: object) -> ModelError:
    """A file of the model that is there and cannot be understood."""
    return foreign(path) or corrupt(f"{path} cannot be read: {why}; fetch the model's files again.")


def stop_ids_of(config: dict[str, Any], generation: dict[str, Any]) -> set[int]:
    """The ids in config.json and generation_config.json that end an answer. Raises ModelError."""
    ends: set[int] = set()
    for source in (config, generation):
        value = source.get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(one, int) for one in ids):
            raise corrupt(
                f"config.json or generation_config.json says eos_token_id = {value!r}; fetch the model's files again."
            )
        ends |= set(ids)
    return ends
