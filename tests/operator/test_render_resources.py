"""What a pod asks for when its model names nothing: by the size of its weights, in steps."""

from __future__ import annotations

from typing import Any

import pytest
from operatorlab.facts import model

from topmast_operator.render.resources import GIB, STEP_BYTES, known_weights_bytes, resources, suggested

GPU = {"accelerator": {"resource": "nvidia.com/gpu", "count": 1}}


def measured(weights_bytes: int, source: str = "image:///models/m.gguf", **spec: Any) -> Any:
    return model({"model": {"source": source, "weightsBytes": weights_bytes}}, **spec)


@pytest.mark.parametrize(
    ("weights_bytes", "cpu", "memory"),
    [
        (0, "250m", "1Gi"),
        (1, "250m", "1280Mi"),
        (STEP_BYTES, "250m", "1280Mi"),
        (STEP_BYTES + 1, "250m", "1536Mi"),
        (GIB, "250m", "2Gi"),
        (2 * GIB, "500m", "3Gi"),
        (16 * GIB, "4", "17Gi"),
        (17 * GIB, "4", "18Gi"),
    ],
)
def test_requests_follow_the_weights(weights_bytes: int, cpu: str, memory: str) -> None:
    assert suggested(measured(weights_bytes)) == {"cpu": cpu, "memory": memory}


def test_the_cache_counts_too_and_neither_where_an_accelerator_holds_them() -> None:
    cache = {"kvCacheBytes": "1Gi"}
    assert suggested(model(engine=cache)) == {"cpu": "250m", "memory": "2Gi"}
    assert suggested(measured(2 * GIB, engine=cache)) == {"cpu": "500m", "memory": "4Gi"}
    assert suggested(measured(2 * GIB, engine=cache, resources=GPU)) == {"cpu": "250m", "memory": "1Gi"}


def test_only_what_was_measured_of_this_source_counts() -> None:
    assert known_weights_bytes(model()) is None
    assert known_weights_bytes(measured(5)) == 5 and known_weights_bytes(measured(5, "image:///other.gguf")) is None


def test_what_is_asked_for_wins_over_what_is_suggested() -> None:
    asked = {"cpu": 2, "memory": "8Gi", "ephemeralStorage": "1Gi", "accelerator": {"count": 2}}
    assert resources(model(resources=asked), {}) == {
        "requests": {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "1Gi", "nvidia.com/gpu": "2"},
        "limits": {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "1Gi", "nvidia.com/gpu": "2"},
    }
    lower = resources(model(resources={"cpu": 2, "memory": "8Gi", "requests": {"cpu": 1, "memory": "4Gi"}}), {})
    assert lower == {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "8Gi"}}
    assert resources(model(), {}) == {"requests": {"cpu": "250m", "memory": "1Gi"}}
    claimed = resources(model(), {"resourceClaims": [{"name": "gpu", "resourceClaimName": "x"}]})
    assert claimed["claims"] == [{"name": "gpu"}]
