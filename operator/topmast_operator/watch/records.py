"""Objects of the cluster as the operator remembers them: who they are, their version, and what was read of them.

The same readers serve an index, a fresh list and the answer to a write, so that all three can be compared.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from topmast_operator.api.facts import ClaimFacts, PodFacts, QuotaFacts, RevisionFacts
from topmast_operator.api.names import (
    ANNOTATION_FAILED,
    ANNOTATION_PROVEN,
    LABEL_CHECK,
    LABEL_MANAGED_BY,
    LABEL_MODEL,
    LABEL_REVISION,
    MANAGED_BY,
)
from topmast_operator.api.resource import Model, parse
from topmast_operator.api.times import to_unix
from topmast_operator.watch.pods import read_pod

Body = Mapping[str, Any]
Content = TypeVar("Content", covariant=True)
Read = TypeVar("Read")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller of an object."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Record(Generic[Content]):
    """One version of one object. `version` is its resourceVersion."""

    namespace: str
    name: str
    uid: str
    version: str
    created_unix_s: float
    deleting: bool
    labels: Mapping[str, str]
    owner: Owner | None
    content: Content

    @property
    def model(self) -> str:
        """The model that its labels name; empty when they name none, or it is not labelled as Topmast's."""
        if self.labels.get(LABEL_MANAGED_BY) != MANAGED_BY:
            return ""
        return self.labels.get(LABEL_MODEL) or self.labels.get(LABEL_CHECK, "")

    def is_older_than(self, other: "Record[Any]") -> bool:
        """Whether `other` is a later version of the same object. Versions are numbers that grow (Kubernetes 1.35)."""
        return self.uid == other.uid and number(self.version) < number(other.version)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as others refer to it. Of one uid nothing of it ever changes."""

    namespace: str
    name: str
    uid: str
    created_unix_s: float


def number(version: str) -> int:
    """A resourceVersion as the number that it is; 0 for none."""
    return int(version) if version.isdecimal() else 0


def read_model(body: Body) -> Record[Model]:
    return _record(body, parse(body))


def read_model_if_valid(body: Body) -> Record[Model | None]:
    """A model that the schema of today would not let pass has no content: nobody can act on it."""
    try:
        return _record(body, parse(body))
    except (KeyError, TypeError, ValueError) as error:
        name = f"{body['metadata'].get('namespace')}/{body['metadata'].get('name')}"
        log.error("the LLMDeployment %s cannot be read and is left alone: %r. Apply it again.", name, error)
        return _record(body, None)


def read_ref(body: Body) -> ModelRef:
    meta = body["metadata"]
    return ModelRef(meta["namespace"], meta["name"], meta["uid"], to_unix(meta["creationTimestamp"]))


def is_readable(record: Record[Any]) -> bool:
    return record.content is not None


def read_deployment(body: Body) -> Record[RevisionFacts]:
    """A Deployment. `template` is what runs: what is pinned can only be told beside its model."""
    meta, annotations = body["metadata"], body["metadata"].get("annotations", {})
    facts = RevisionFacts(
        name=meta["name"],
        revision=meta.get("labels", {}).get(LABEL_REVISION, ""),
        created_unix_s=to_unix(meta["creationTimestamp"]),
        replicas=body["spec"]["replicas"],
        template=body["spec"]["template"],
        proven=annotations.get(ANNOTATION_PROVEN) == "true",
        failed=_json(annotations.get(ANNOTATION_FAILED)),
        replica_failure=_replica_failure(body),
        live=body,
    )
    return _record(body, facts)


def read_model_pod(body: Body) -> Record[PodFacts]:
    return _record(body, read_pod(body, None))


def read_named(body: Body) -> Record[Body | None]:
    """A Service, a budget, an access file, a policy. Of one that is not labelled as Topmast's only the name counts."""
    labels = body["metadata"].get("labels", {})
    ours = labels.get(LABEL_MANAGED_BY) == MANAGED_BY
    return _record(body, body if ours else None)


def read_claim(body: Body) -> Record[ClaimFacts]:
    modes = body.get("spec", {}).get("accessModes", ())
    return _record(body, ClaimFacts(body["metadata"]["name"], body.get("status", {}).get("phase", ""), tuple(modes)))


def read_quota(body: Body) -> Record[QuotaFacts]:
    status = body.get("status", {})
    hard = status.get("hard") or body.get("spec", {}).get("hard", {})
    return _record(body, QuotaFacts(body["metadata"]["name"], dict(hard), dict(status.get("used", {}))))


def _record(body: Body, content: Read) -> Record[Read]:
    """Takes the list of who set which field out of the body itself: often half of it, and kopf holds every body of a
    first list until all indices are filled."""
    meta = body["metadata"]
    meta.pop("managedFields", None)
    owner = next((item for item in meta.get("ownerReferences", ()) if item.get("controller")), None)
    return Record(
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        created_unix_s=to_unix(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        labels=meta.get("labels", {}),
        owner=Owner(owner["kind"], owner["name"], owner["uid"]) if owner else None,
        content=content,
    )


def _replica_failure(body: Body) -> str:
    for condition in body.get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message", condition.get("reason", "")))
    return ""


def _json(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
