"""What the operator watches, as kopf handlers: indices of what is there, and events that wake whom they concern.

No handler creates, updates or deletes anything: kopf's own on.create and on.update would leave annotations and a
finalizer on the resource (docs/decisions/0010-kopf-watches-and-indexes.md). Decisions are made elsewhere, in another
thread; these functions run in kopf's, and are coroutines because kopf would give each call of a plain function to yet
another thread. Nodes are in watch/node_handlers.py, which is imported where they may be read.
"""

from collections.abc import Mapping
from typing import Any

import kopf

from topmast_operator.api import quantity
from topmast_operator.api.names import GROUP, LABEL_CHECK, LABEL_MANAGED_BY, LABEL_MODEL, MANAGED_BY, PLURAL, VERSION
from topmast_operator.api.resource import read_aliases, read_fallbacks
from topmast_operator.render.template import claim_of
from topmast_operator.watch import records
from topmast_operator.watch.login import login as log_in
from topmast_operator.watch.mirror import indices_of
from topmast_operator.watch.settings import configure

OURS = {LABEL_MANAGED_BY: MANAGED_BY}

Entry = dict[Any, Any]


@kopf.on.login()
async def login(**arguments: Any) -> kopf.ConnectionInfo | None:
    return log_in(**arguments)


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: Any, **given: Any) -> None:
    configure(settings)
    memo.bell.attach(indices_of(given))


@kopf.index(GROUP, VERSION, PLURAL)
async def models(namespace: str, name: str, body: kopf.Body, **_: Any) -> Entry:
    return {(namespace, name): records.read_model_if_valid(dict(body))}


@kopf.index(GROUP, VERSION, PLURAL, field="spec.access")
async def aliases(namespace: str, spec: kopf.Spec, body: kopf.Body, **_: Any) -> Entry:
    return {(namespace, alias): records.read_ref(body) for alias in read_aliases(spec)}


@kopf.index(GROUP, VERSION, PLURAL, field="spec.access")
async def fallbacks(namespace: str, spec: kopf.Spec, body: kopf.Body, **_: Any) -> Entry:
    """By the models that are named, whose coming and going it concerns."""
    return {named: records.read_ref(body) for named in read_fallbacks(namespace, spec)}


@kopf.index("apps", "v1", "deployments", labels=OURS)
async def deployments(namespace: str, body: kopf.Body, **_: Any) -> Entry:
    record = records.read_deployment(dict(body))
    return {(namespace, record.model): record}


@kopf.index("", "v1", "pods", labels=OURS)
async def pods(namespace: str, body: kopf.Body, **_: Any) -> Entry:
    record = records.read_model_pod(dict(body))
    return {(namespace, record.model): record}


@kopf.index("", "v1", "services")
async def services(namespace: str, name: str, body: kopf.Body, **_: Any) -> Entry:
    return {(namespace, name): records.read_named(dict(body))}


@kopf.index("policy", "v1", "poddisruptionbudgets")
async def budgets(namespace: str, name: str, body: kopf.Body, **_: Any) -> Entry:
    return {(namespace, name): records.read_named(dict(body))}


@kopf.index("", "v1", "configmaps", labels=OURS)
async def access_files(namespace: str, name: str, body: kopf.Body, **_: Any) -> Entry:
    return {(namespace, name): records.read_named(dict(body))}


@kopf.index("networking.k8s.io", "v1", "networkpolicies", labels=OURS)
async def policies(namespace: str, name: str, body: kopf.Body, **_: Any) -> Entry:
    return {(namespace, name): records.read_named(dict(body))}


@kopf.index("", "v1", "persistentvolumeclaims")
async def claims(namespace: str, name: str, body: kopf.Body, **_: Any) -> Entry:
    return {(namespace, name): records.read_claim(dict(body))}


@kopf.index("", "v1", "resourcequotas")
async def quotas(namespace: str, body: kopf.Body, **_: Any) -> Entry:
    return {namespace: records.read_quota(dict(body))}


@kopf.on.event(GROUP, VERSION, PLURAL)
async def model_changed(
    namespace: str,
    name: str,
    body: kopf.Body,
    meta: kopf.Meta,
    status: kopf.Status,
    type: str | None,
    memo: Any,
    **_: Any,
) -> None:
    """Not its status, which the operator writes itself, but for what others write there."""
    asked = {part: status.get(part) for part in ("wake", "operator")}
    if _is_news(
        memo, type, meta, (meta.get("generation"), dict(meta.labels), dict(meta.annotations), asked, _leaves(meta))
    ):
        memo.bell.changed(namespace, name, meta["uid"], meta["resourceVersion"])
    before = memo.get("aliases")
    memo.aliases = None if type == "DELETED" else frozenset(read_aliases(body.spec))
    if memo.aliases != before:
        memo.bell.renamed(records.read_ref(body), before, memo.aliases)


@kopf.on.event("apps", "v1", "deployments", labels=OURS)
@kopf.on.event("", "v1", "pods", labels=OURS)
@kopf.on.event("", "v1", "configmaps", labels=OURS)
@kopf.on.event("networking.k8s.io", "v1", "networkpolicies", labels=OURS)
async def child_changed(
    namespace: str, labels: Mapping[str, str], meta: kopf.Meta, type: str | None, memo: Any, **_: Any
) -> None:
    model = labels.get(LABEL_MODEL) or labels.get(LABEL_CHECK)
    if _is_news(memo, type, meta, meta["resourceVersion"]) and model:
        memo.bell.changed(namespace, model, meta["uid"], meta["resourceVersion"])


@kopf.on.event("", "v1", "services")
@kopf.on.event("policy", "v1", "poddisruptionbudgets")
async def name_changed(
    namespace: str, name: str, meta: kopf.Meta, type: str | None, memo: Any, models: kopf.Index[Any, Any], **_: Any
) -> None:
    """Whether it is Topmast's or somebody else's: a model of its name wants that name."""
    if _is_news(memo, type, meta, meta["resourceVersion"]) and (namespace, name) in models:
        memo.bell.changed(namespace, name, meta["uid"], meta["resourceVersion"])


@kopf.on.event("", "v1", "persistentvolumeclaims")
async def claim_changed(
    namespace: str,
    name: str,
    body: kopf.Body,
    meta: kopf.Meta,
    type: str | None,
    memo: Any,
    models: kopf.Index[Any, Any],
    **_: Any,
) -> None:
    """The models whose source names it."""
    if _is_news(memo, type, meta, records.read_claim(dict(body)).content):
        for model in (record for store in models.values() for record in store if record.namespace == namespace):
            if records.is_readable(model) and claim_of(model.content.source) == name:
                memo.bell.changed(namespace, model.name, meta["uid"], meta["resourceVersion"])


@kopf.on.event("", "v1", "resourcequotas")
async def quota_changed(
    namespace: str, body: kopf.Body, meta: kopf.Meta, type: str | None, memo: Any, **_: Any
) -> None:
    """Those who wait, when room has come; not at each pod that takes some."""
    quota = records.read_quota(dict(body)).content
    before = memo.get("seen")
    if _is_news(memo, type, meta, quota) and (
        type == "DELETED" or before is None or before.hard != quota.hard or _fell(before.used, quota.used)
    ):
        memo.bell.freed(namespace)


def _is_news(memo: Any, type: str | None, meta: kopf.Meta, state: Any) -> bool:
    """Whether an object says something that it did not say before. kopf keeps a memo for each object."""
    if type is None:
        memo.bell.listed()
    if type == "DELETED":
        memo.bell.gone(meta["uid"])
    news = type == "DELETED" or memo.get("seen") != state
    memo.seen = state
    return news


def _leaves(meta: kopf.Meta) -> bool:
    return "deletionTimestamp" in meta


def _fell(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    return any(quantity.parse(after.get(name, "0")) < quantity.parse(amount) for name, amount in before.items())
