"""Recorded causes as facts: what a real cluster said (recorded/*.json), read by the operator's own readers.

The clock is the recording's: a pod was made when it was made, and `waited_s` says how long ago that is.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from operatorlab import bodies, facts
from topmast_operator.api.facts import Facts, PodFacts, Room, Termination, WriteRefused
from topmast_operator.api.names import LABEL_CHECK, LABEL_MANAGED_BY, LABEL_REVISION, MANAGED_BY, model_labels
from topmast_operator.api.resource import Model, parse
from topmast_operator.api.times import to_text, to_unix
from topmast_operator.plan.revision import revision_of
from topmast_operator.render import children
from topmast_operator.render.template import render_template
from topmast_operator.watch.gather import facts_of
from topmast_operator.watch.mirror import Found
from topmast_operator.watch.records import read_claim, read_deployment, read_model, read_model_pod, read_quota
from topmast_operator.watch.stuck import StuckPods

Object = dict[str, Any]
FOLDER = Path(__file__).parents[1] / "recorded"
OLD_SOURCE = {"source": "image:///models/old.gguf"}
GPU = {"count": 1}
FULL = Room(free=0, total=1, nodes=1, largest_free_on_a_node=0, largest_node=1)
OLDER_S = 3600.0  # the old revision has served for so long


@dataclass(frozen=True)
class Recording:
    """One file. `body` is what was written down, or what a test changed of it."""

    body: Object

    def first(self, waited_s: float) -> Facts:
        """The recorded revision is the model's first."""
        return self._facts(self._model(), waited_s)

    def successor(self, waited_s: float) -> Facts:
        """It is to follow one that serves, and there is room for both."""
        of = self._model()
        return self._facts(of, waited_s, self._old(of))

    def checked(self, waited_s: float) -> Facts:
        """It is to follow one that holds the only accelerator: what was recorded is said of its check pod."""
        spec = {**self.body["spec"], "resources": {**self.body["spec"].get("resources", {}), "accelerator": GPU}}
        of = replace(self, body={**self.body, "spec": spec})._model()
        found = self._facts(of, waited_s, self._old(of), as_check=True)
        return replace(found, room=FULL)

    def ended(self, times: int) -> Recording:
        """The same, at an earlier failure: while the kubelet waits, the latest end is not yet a restart."""
        body = copy.deepcopy(self.body)
        (status,) = body["pod"]["status"]["containerStatuses"]
        status["restartCount"] = times - 1
        return Recording(body)

    @property
    def since(self) -> float:
        """When its pod was made, or the Deployment that makes none."""
        made = self.body.get("pod") or self.body.get("deployment")
        return to_unix(made["metadata"]["creationTimestamp"] if made else self.body["recorded"])

    def _model(self) -> Object:
        body = bodies.model(**self.body["spec"])
        body["metadata"]["creationTimestamp"] = to_text(self.since - OLDER_S)
        return body

    def _facts(self, model: Object, waited_s: float, old: Found | None = None, *, as_check: bool = False) -> Facts:
        of, now = parse(model), self.since + waited_s
        pods = [self._pod(of, as_check=as_check)] if "pod" in self.body else []
        made = [] if "refused" in self.body or as_check else [self._deployment(of)]
        found = Found(
            read_model(model),
            deployments=(*(old.deployments if old else ()), *map(read_deployment, made)),
            pods=(*(old.pods if old else ()), *map(read_model_pod, pods)),
            claim=read_claim(bodies.stored(self.body["claim"])) if "claim" in self.body else None,
            quotas=tuple(read_quota(bodies.stored(item)) for item in [self.body.get("quota")] if item),
        )
        seen = facts_of(found, {}, now)
        assert not seen.strays and not seen.foreign and not seen.leftover, "the recording is of another model"
        return _with_events(seen, self.body.get("events", [])) if "refused" not in self.body else self._refused(seen)

    def _deployment(self, of: Model) -> Object:
        template = render_template(of, revision_of(of), facts.DEFAULTS)
        body = children.deployment(of, revision_of(of), template, 1, proven=False, failed=None)
        body["status"] = self.body.get("deployment", {}).get("status", {})
        return bodies.stored(body, creationTimestamp=to_text(self.since))

    def _pod(self, of: Model, *, as_check: bool) -> Object:
        """The recorded pod under the labels and the owner that it has in this model."""
        revision = revision_of(of)
        labels = model_labels("m") | {LABEL_REVISION: revision}
        owner = {"kind": "ReplicaSet", "name": f"m-{revision}-abcde", "uid": "rs", "controller": True}
        if as_check:
            labels = {LABEL_CHECK: "m", LABEL_REVISION: revision, LABEL_MANAGED_BY: MANAGED_BY}
            (owner,) = bodies.owned_by("u")
        recorded = self.body["pod"]
        made = {"creationTimestamp": recorded["metadata"]["creationTimestamp"], "labels": labels}
        return bodies.stored(recorded, ownerReferences=[owner], **made)

    def _old(self, model: Object) -> Found:
        """A revision that serves with one ready pod."""
        of = parse({**model, "spec": {**model["spec"], "model": OLD_SOURCE}})
        revision, born = revision_of(of), to_text(self.since - OLDER_S)
        template = render_template(of, revision, facts.DEFAULTS)
        deployment = children.deployment(of, revision, template, 1, proven=True, failed=None)
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": born}
        pod = bodies.pod(conditions=[ready])
        pod["metadata"] |= {"name": f"m-{revision}-0", "creationTimestamp": born}
        pod["metadata"]["labels"] = model_labels("m") | {LABEL_REVISION: revision}
        pod["metadata"]["ownerReferences"][0]["name"] = f"m-{revision}-abcde"
        made = read_deployment(bodies.stored(deployment, creationTimestamp=born))
        return Found(read_model(model), deployments=(made,), pods=(read_model_pod(pod),))

    def _refused(self, seen: Facts) -> Facts:
        answer = self.body["refused"]
        return replace(seen, refused=WriteRefused(answer["status"], answer["message"]))


@cache
def recording(fault: str) -> Recording:
    return Recording(json.loads((FOLDER / f"{fault}.json").read_text()))


@cache
def pod_of(fault: str) -> PodFacts:
    """What scheduler and kubelet say of the recorded pod, a minute after it was made."""
    (found,) = recording(fault).first(60.0).pods
    return found


def end_of(fault: str) -> Termination:
    """How the recorded pod's engine ended."""
    ended = pod_of(fault).last_terminated
    assert ended is not None
    return ended


def refusal_of(fault: str) -> str:
    """Why Kubernetes makes no pods."""
    return recording(fault).first(60.0).revisions[0].replica_failure


def recorded_faults() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


class _Events:
    """An API server that knows these Events and nothing else."""

    def __init__(self, events: list[Mapping[str, Any]]) -> None:
        self._events = events

    async def list(self, path: str, selector: str = "", *, field_selector: str = "") -> list[Mapping[str, Any]]:
        assert path.endswith("/events") and "type=Warning" in field_selector
        return self._events


def _with_events(seen: Facts, events: list[Mapping[str, Any]]) -> Facts:
    if not events:
        return seen
    stuck = StuckPods(_Events(events))  # type: ignore[arg-type]

    async def said() -> Facts:
        pods = [replace(pod, stuck_message=await stuck.message("ns", pod, seen.now)) for pod in seen.pods]
        check = seen.check and replace(seen.check, stuck_message=await stuck.message("ns", seen.check, seen.now))
        return replace(seen, pods=tuple(pods), check=check)

    return asyncio.run(said())
