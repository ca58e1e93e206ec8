"""What the gateway knows: ready with all of it in its table, and in a storm of changes few tables."""

from __future__ import annotations

import asyncio

from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.endpoint_picker import EndpointPicker
from topmast_gateway.routing.model_table import Model, ModelTable


def a_state(*namespaces: str) -> ClusterState:
    loads = EndpointLoads()
    return ClusterState(namespaces, "system", "keys", loads, EndpointPicker(loads))


async def test_it_is_ready_when_the_last_list_is_in_the_table() -> None:
    """With two namespaces the second list came a moment after the first table, and models of it were a 404."""
    state = a_state("one", "two")
    for number, informer in enumerate(state.informers):
        assert not state.synced
        informer.items = {str(number): Model("ns", f"m-{number}")} if informer in state._models else {}  # type: ignore[assignment]
        informer.synced = True
        informer._changed()
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while not state.synced:
            assert len(state.routes) < 2 or not state.synced
            await asyncio.sleep(0.005)
    assert len(state.routes) == 2


async def test_a_thousand_changes_at_once_make_few_tables() -> None:
    state, tables = a_state("one"), list[ModelTable]()
    informer = state._models[0]
    for number in range(1000):
        informer.items[str(number)] = Model("one", f"m-{number}")
        informer._changed()
        await asyncio.sleep(0)
        if not tables or tables[-1] is not state.routes:
            tables.append(state.routes)
    await asyncio.sleep(0.15)
    assert len(state.routes) == 1000 and len(tables) < 20
