"""Keys come and go through the Secret, without a restart."""

from __future__ import annotations

import httpx

from gateway.lab.stage import KEY, Gateway, Stage, eventually, hashed


def status(gateway: Gateway, key: str) -> int:
    return httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


def test_a_key_that_is_added_or_revoked_counts_within_two_seconds(stage: Stage, gateway: Gateway) -> None:
    assert status(gateway, "tm-second") == 401
    stage.core.patch_namespaced_secret(
        "topmast-api-keys", "topmast-system", {"stringData": {"second": hashed("tm-second")}}
    )
    eventually(lambda: status(gateway, "tm-second") == 200, "the new key opens", 2)
    stage.core.patch_namespaced_secret("topmast-api-keys", "topmast-system", {"data": {"second": None}})
    eventually(lambda: status(gateway, "tm-second") == 401, "the revoked key is refused", 2)
    assert status(gateway, KEY) == 200


def test_a_deleted_secret_lets_nobody_in_until_it_is_back(stage: Stage, gateway: Gateway) -> None:
    stage.core.delete_namespaced_secret("topmast-api-keys", "topmast-system")
    try:
        eventually(lambda: status(gateway, KEY) == 401, "without the Secret nobody gets in", 2)
    finally:
        stage.raw_keys({"tests": hashed(KEY), "broken": "sha256:no"})
    eventually(lambda: status(gateway, KEY) == 200, "the key opens again", 2)
    assert gateway.metric("topmast_gateway_api_keys") == 1
    eventually(lambda: any("broken" in line for line in gateway.lines), "the broken entry is named")
    assert not any(KEY in line for line in gateway.lines)
