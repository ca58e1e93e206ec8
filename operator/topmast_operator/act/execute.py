"""Carries out a plan, in its order. Decides nothing; every step may be repeated without harm.

A refusal is raised after the other steps were tried: one child that cannot be written holds up no other.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError
from topmast_operator.api.names import ANNOTATION_ACCESS, ANNOTATION_DELETION_COST, ANNOTATION_DRAINING
from topmast_operator.api.resource import Model
from topmast_operator.render.changes import Changes
from topmast_operator.render.children import Manifest

ANNOUNCE_S = 1.0  # for gateways to notice that a pod is about to leave
LEAVES_FIRST = "-1000"

log = logging.getLogger(__name__)


async def execute(api: Api, model: Model, changes: Changes) -> ApiError | None:
    """Bring the children to where the plan wants them; the first refusal, if there was one."""
    refused: list[ApiError] = []
    for pod in changes.undrain:
        await _try(_annotate(api, model, pod, draining=False), refused)
    for pod in changes.drain:
        await _try(_annotate(api, model, pod, draining=True), refused)
    if changes.drain and (changes.shrink or changes.delete):
        await asyncio.sleep(ANNOUNCE_S)
    for manifest in changes.shrink:
        await _try(_apply(api, model, manifest), refused)
    for kind, name, uid in changes.delete:
        log.info("%s: delete %s %s", model.key, kind, name)
        await _try(api.delete(paths.child(kind, model.namespace, name), uid=uid), refused)
    for manifest in changes.grow:
        await _try(_apply(api, model, manifest), refused)
    for pod in changes.refresh:
        # The kubelet looks at mounted ConfigMaps once a minute or so, and at once when their pod changes.
        await _try(_set_annotations(api, model, pod, {ANNOTATION_ACCESS: changes.access}), refused)
    return refused[0] if refused else None


async def _apply(api: Api, model: Model, manifest: Manifest) -> None:
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    count = f" with {manifest['spec']['replicas']} replicas" if kind == "Deployment" else ""
    log.info("%s: apply %s %s%s", model.key, kind, name, count)
    await api.apply(paths.child(kind, model.namespace, name), manifest)


async def _annotate(api: Api, model: Model, pod: str, *, draining: bool) -> None:
    log.info("%s: pod %s is %s", model.key, pod, "about to leave" if draining else "to stay after all")
    annotations = {
        ANNOTATION_DRAINING: "true" if draining else None,
        ANNOTATION_DELETION_COST: LEAVES_FIRST if draining else None,
    }
    await _set_annotations(api, model, pod, annotations)


async def _set_annotations(api: Api, model: Model, pod: str, annotations: Mapping[str, str | None]) -> None:
    try:
        await api.merge(paths.child("Pod", model.namespace, pod), {"metadata": {"annotations": dict(annotations)}})
    except ApiError as error:
        if error.status != 404:  # it has left already
            raise


async def _try(step: Coroutine[Any, Any, None], refused: list[ApiError]) -> None:
    try:
        await step
    except ApiError as error:
        if error.status == 409 or error.status >= 500:
            raise  # a race or an ailing server: the whole pass is repeated
        refused.append(error)
