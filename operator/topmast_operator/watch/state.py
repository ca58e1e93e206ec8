"""An engine's `/state`, as the contract describes it, read leniently: while it starts, most of it is null."""

from collections.abc import Mapping
from typing import Any

from topmast_operator.api.facts import Device, EngineState


def parse_state(body: Mapping[str, Any]) -> EngineState:
    """What an engine says of itself, rates apart. KeyError or TypeError when it is no `/state` at all."""
    work, capacity, load = body.get("work") or {}, body.get("capacity") or {}, body.get("load") or {}
    return EngineState(
        phase=str(body["phase"]),
        bytes_done=load.get("bytes_done") or 0,
        bytes_total=load.get("bytes_total") or 0,
        eta_s=load.get("eta_s"),
        start_total_s=(body.get("start") or {}).get("total_s"),
        running=work.get("running") or 0,
        waiting=work.get("waiting") or 0,
        waiting_prompt_tokens=work.get("waiting_prompt_tokens") or 0,
        kv_tokens_used=work.get("kv_tokens_used") or 0,
        kv_tokens=capacity.get("kv_tokens") or 0,
        prefill_tokens_per_s=capacity.get("prefill_tokens_per_s") or 0.0,
        decode_tokens_per_s=capacity.get("decode_tokens_per_s") or 0.0,
        device=_device(body.get("device")),
    )


def tokens_so_far(body: Mapping[str, Any]) -> tuple[int, int]:
    """Offered input and generated output tokens since the engine started."""
    work = body.get("work") or {}
    return work.get("input_tokens_total") or 0, work.get("output_tokens_total") or 0


def requests_so_far(body: Mapping[str, Any]) -> int:
    """Requests that arrived since the engine started."""
    return (body.get("work") or {}).get("requests_total") or 0


def _device(said: Mapping[str, Any] | None) -> Device | None:
    if not said:
        return None
    return Device(str(said.get("kind", "")), str(said.get("name", "")), said.get("count") or 0)
