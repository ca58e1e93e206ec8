"""Objects by hand as the API server would show them, for the tests of what is read from them."""

from __future__ import annotations

import itertools
from typing import Any

from operatorlab import facts
from topmast_operator.api.names import model_labels
from topmast_operator.api.times import to_text
from topmast_operator.plan.revision import revision_of
from topmast_operator.render import children
from topmast_operator.render.template import render_template

Object = dict[str, Any]
BORN = facts.NOW - 1000

_versions = itertools.count(1)


def stored(body: Object, *, uid: str = "", age_s: float = 100, version: int | None = None, **meta: Any) -> Object:
    """The object with what the API server adds; metadata from the keywords."""
    added = {
        "uid": uid or f"uid-of-{body['metadata']['name']}",
        "resourceVersion": str(next(_versions) if version is None else version),
        "creationTimestamp": to_text(facts.NOW - age_s),
    }
    return {**body, "metadata": {"namespace": "ns", **body["metadata"], **added, **meta}}


def model(uid: str = "u", age_s: float = 1000, **spec: Any) -> Object:
    return stored({**facts.body(**spec), "kind": "LLMDeployment"}, uid=uid, age_s=age_s)


def deployment(replicas: int = 1, *, uid: str = "", age_s: float = 900, **meta: Any) -> Object:
    """The Deployment of the model's only revision."""
    of = facts.model()
    name = revision_of(of)
    template = render_template(of, name, facts.DEFAULTS)
    body = children.deployment(of, name, template, replicas, proven=True, failed=None)
    return stored(body, uid=uid, age_s=age_s, **meta)


def service(**meta: Any) -> Object:
    return stored(children.service(facts.model()), **meta)


def pod(number: int = 0, *, owner: Object | None = None, age_s: float = 50, **status: Any) -> Object:
    """A running engine pod that a ReplicaSet of the model's Deployment made; `owner` says otherwise."""
    revision = revision_of(facts.model())
    name = f"m-{revision}-abcde-{number}"
    made_by = {"kind": "ReplicaSet", "name": f"m-{revision}-abcde", "uid": "rs", "controller": True}
    labels = {**model_labels("m"), "topmast.dev/revision": revision}
    body = {
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [made_by if owner is None else owner]},
        "spec": {"nodeName": "n1", "containers": [{"name": "engine"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", **status},
    }
    return stored(body, age_s=age_s)


def owned_by(uid: str, kind: str = "LLMDeployment", name: str = "m") -> list[Object]:
    return [{"kind": kind, "name": name, "uid": uid, "controller": True}]
