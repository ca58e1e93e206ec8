"""What objects of the cluster mean for a model: its own, what others own, what a predecessor left, strays."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from operatorlab import bodies, facts

from topmast_operator.act.client import Api
from topmast_operator.api.facts import ClaimFacts, Facts
from topmast_operator.api.times import to_text
from topmast_operator.render import access
from topmast_operator.watch import records
from topmast_operator.watch.gather import Gatherer, facts_of
from topmast_operator.watch.mirror import Found, Mirror
from topmast_operator.watch.stuck import AFTER_S, is_stuck


def found(
    *pods: bodies.Object, model: bodies.Object | None = None, deployments: tuple[bodies.Object, ...] = (), **more: Any
) -> Facts:
    return facts_of(
        Found(
            records.read_model(model or bodies.model()),
            deployments=tuple(map(records.read_deployment, deployments)),
            pods=tuple(map(records.read_model_pod, pods)),
            **more,
        ),
        {},
        facts.NOW,
    )


def test_a_stray_pod_with_the_labels_is_no_replica() -> None:
    """Made by hand or by somebody else's ReplicaSet: counting it would drain a healthy replica."""
    mine, bare = bodies.pod(1), bodies.pod(2)
    bare["metadata"]["ownerReferences"] = []
    others = bodies.pod(3, owner={"kind": "ReplicaSet", "name": "other-abc", "uid": "x", "controller": True})
    job = bodies.pod(4, owner={"kind": "Job", "name": mine["metadata"]["name"], "uid": "y", "controller": True})
    seen = found(mine, bare, others, job, deployments=(bodies.deployment(),))
    assert [pod.name for pod in seen.pods] == [mine["metadata"]["name"]]
    assert set(seen.strays) == {pod["metadata"]["name"] for pod in (bare, others, job)}


def test_pods_of_a_deployment_that_was_just_deleted_are_replicas_still() -> None:
    assert len(found(bodies.pod(1)).pods) == 1 and not found(bodies.pod(1)).strays


def test_children_of_a_predecessor_of_the_same_name_are_leftovers_and_nobody_elses() -> None:
    """`kubectl replace --force`: the garbage collector needs a moment, and that is no conflict."""
    theirs = bodies.owned_by("an earlier uid")
    young = bodies.model(uid="u", age_s=10)
    seen = found(
        bodies.pod(1, age_s=50),
        model=young,
        deployments=(bodies.deployment(ownerReferences=theirs),),
        service=records.read_named(bodies.service(ownerReferences=theirs)),
    )
    assert seen.leftover == ("Deployment", "Pod", "Service")
    assert (seen.foreign, seen.revisions, seen.pods, seen.strays) == ((), (), (), ())


def test_what_somebody_else_owns_is_foreign() -> None:
    plain = {"kind": "Service", "metadata": {"name": "m"}, "spec": {}}
    seen = found(service=records.read_named(bodies.stored(plain)))
    assert seen.foreign == ("Service",) and seen.service is None, "of others nothing but the name is kept"
    other = bodies.owned_by("x", kind="Rollout", name="y")
    seen = found(service=records.read_named(bodies.service(ownerReferences=other)))
    assert seen.foreign == ("Service",) and seen.leftover == ()


def test_an_orphan_is_adopted_only_when_topmast_made_it() -> None:
    orphan = bodies.deployment(ownerReferences=[])
    young = bodies.model(age_s=10)
    seen = found(bodies.pod(1, age_s=500), model=young, deployments=(orphan,))
    assert len(seen.revisions) == 1 and len(seen.pods) == 1, "its pods are older than the model and come with it"
    labelled = bodies.deployment(ownerReferences=[])
    del labelled["metadata"]["annotations"]["topmast.dev/pinned"]
    seen = found(deployments=(labelled,))
    assert seen.revisions == () and seen.foreign == ("Deployment",)
    elsewhere = bodies.stored({**labelled, "metadata": {**labelled["metadata"], "name": "my-own"}})
    assert found(deployments=(elsewhere,)).foreign == (), "it stands in nobody's way"


def test_the_newest_check_is_told_and_is_no_replica() -> None:
    checks = []
    for number, age_s in ((1, 50), (2, 20)):
        check = bodies.pod(number, owner=bodies.owned_by("u")[0], age_s=age_s, phase="Succeeded")
        check["metadata"]["labels"] |= {"app.kubernetes.io/name": "topmast-check", "topmast.dev/check": "m"}
        checks.append(check)
    seen = found(*checks)
    assert seen.check is not None and seen.check.name == checks[1]["metadata"]["name"] and seen.check.ended
    assert seen.pods == () and seen.strays == ()


def test_a_claim_that_is_not_there_is_a_fact() -> None:
    asks = bodies.model(model={"source": "pvc://weights/a.gguf"})
    assert found(model=asks).claim == ClaimFacts("weights")
    claim = {"metadata": {"name": "weights"}, "spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Bound"}}
    seen = found(model=asks, claim=records.read_claim(bodies.stored(claim)))
    assert seen.claim == ClaimFacts("weights", "Bound", ("ReadWriteOnce",)) and seen.claim.one_node
    assert found().claim is None


def test_an_evicted_pod_and_a_gated_one_tell_why() -> None:
    evicted = bodies.pod(1, phase="Failed", reason="Evicted", message="The node was low on memory.")
    gated = bodies.pod(2, phase="Pending")
    gated["spec"] = {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}], "containers": []}
    gated["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
    first, second = found(evicted, gated).pods
    assert first.ended and (first.ended_reason, first.ended_message) == ("Evicted", "The node was low on memory.")
    assert second.gates == ("kueue.x-k8s.io/admission",) and second.scheduled is None


def test_when_a_pod_was_scheduled_started_and_ready() -> None:
    at = {name: to_text(facts.NOW - ago) for name, ago in (("scheduled", 40), ("started", 30), ("ready", 10))}
    pod = bodies.pod(
        conditions=[
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": at["scheduled"]},
            {"type": "Ready", "status": "True", "lastTransitionTime": at["ready"]},
        ],
        containerStatuses=[{"name": "engine", "state": {"running": {"startedAt": at["started"]}}}],
    )
    (read,) = found(pod).pods
    times = (read.scheduled_unix_s, read.started_unix_s, read.ready_unix_s)
    assert times == (facts.NOW - 40, facts.NOW - 30, facts.NOW - 10)


def test_only_a_pod_with_a_node_and_no_container_for_long_is_stuck() -> None:
    waiting = facts.pod(facts.model(), ready=False, phase="Pending", scheduled_unix_s=facts.NOW - AFTER_S - 1)
    assert is_stuck(waiting, facts.NOW)
    creating = replace(waiting, waiting_reason="ContainerCreating")
    assert is_stuck(creating, facts.NOW)
    for other in (
        replace(waiting, scheduled_unix_s=facts.NOW - AFTER_S + 1),
        replace(waiting, node=None),
        replace(waiting, phase="Running"),
        replace(waiting, waiting_reason="ImagePullBackOff"),
        replace(waiting, deleting=True),
    ):
        assert not is_stuck(other, facts.NOW)


class Names:
    """An API server that is asked for objects by their names, and remembers for which."""

    def __init__(self, *there: bodies.Object) -> None:
        self.there = {item["metadata"]["name"]: item for item in there}
        self.asked: list[str] = []

    async def list(self, path: str, selector: str = "", *, field_selector: str = "") -> list[bodies.Object]:
        name = field_selector.removeprefix("metadata.name=")
        self.asked.append(name)
        return [self.there[name]] if name in self.there else []


async def gathered(api: Names, *, closed: bool = True, policed: bool = True, **known: Any) -> Facts:
    """What is gathered of a model from indices that hold this of it."""
    mirror = SimpleNamespace(find=lambda *_: Found(records.read_model(bodies.model()), **known), nodes=lambda: None)
    gatherer = Gatherer(cast(Api, api), cast(Mirror, mirror), closed=closed, policed=policed)
    found = await gatherer.gather({}, "ns", "m", facts.NOW)
    assert found is not None
    return found


def others(name: str) -> bodies.Object:
    return bodies.stored({"metadata": {"name": name}})


def of_closed_pods() -> bodies.Object:
    body = bodies.deployment()
    volume = {"name": "topmast-access", "configMap": {"name": "m-access"}}
    template = {**body["spec"]["template"], "spec": {**body["spec"]["template"]["spec"], "volumes": [volume]}}
    return {**body, "spec": {**body["spec"], "template": template}}


async def test_a_name_is_asked_for_before_the_first_write_and_what_others_have_there_is_foreign() -> None:
    """Only what is labelled as Topmast's is watched, and an apply would take over anything else."""
    api = Names(others("m-access"), others("m-engines"))
    assert (await gathered(api)).foreign == ("ConfigMap", "NetworkPolicy")
    assert api.asked == ["m-access", "m-engines"]
    assert (await gathered(Names())).foreign == ()


async def test_a_settled_model_asks_for_no_name() -> None:
    api = Names()
    ours = records.read_named(bodies.stored(access.config_map(facts.model(), "{}")))
    policy = records.read_named(bodies.stored(access.network_policy(facts.model(), [])))
    deployments = (records.read_deployment(of_closed_pods()),)
    found = await gathered(api, deployments=deployments, access=ours, policy=policy)
    assert api.asked == [] and found.access is not None and found.network_policy is not None
    assert found.foreign == ()


async def test_a_name_that_is_not_needed_may_be_anybodys() -> None:
    """Open pods that run mount no access file, and without the setting there are no policies."""
    api = Names(others("m-access"), others("m-engines"))
    theirs = {"access": records.read_named(others("m-access")), "policy": records.read_named(others("m-engines"))}
    opened = (records.read_deployment(bodies.deployment()),)
    assert (await gathered(api, policed=False, deployments=opened, **theirs)).foreign == ()
    assert (await gathered(api, closed=False, policed=False, **theirs)).foreign == ()
    assert api.asked == []


async def test_pods_that_were_closed_once_need_their_file_whatever_the_setting_is_now() -> None:
    api = Names()
    await gathered(api, closed=False, policed=False, deployments=(records.read_deployment(of_closed_pods()),))
    assert api.asked == ["m-access"]
