"""From a manifest to an answer, and what a user then does with a model: ask, scale, change, suspend, delete."""

from __future__ import annotations

from itertools import pairwise

import openai
import pytest

from cluster.lab import Lab, condition, llm


def test_apply_to_a_streamed_answer(lab: Lab) -> None:
    with lab.model("first") as model:
        status = lab.until_ready(model)["status"]
        assert status["replicas"] == status["readyReplicas"] == 1
        assert condition({"status": status}, "Reconciling")["status"] == "False"
        assert model in [entry.id for entry in lab.client().models.list()]

        stream = lab.client().chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is the capital of Japan?"}],
            max_tokens=24,
            temperature=0,
            stream=True,
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "Tokyo" in "".join(pieces)
        assert len([piece for piece in pieces if piece]) > 3, "the answer came in one piece: something buffers it"
        assert "".join(pieces) == lab.ask(model), "streamed and whole answers differ"
        assert "Tokyo" in lab.ask(f"default/{model}")


def test_strangers_and_unknown_models_get_honest_answers(lab: Lab) -> None:
    stranger = openai.OpenAI(base_url=lab.gateway_url, api_key="tm-" + "x" * 40, max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError, match="nosuch"):
        lab.ask("nosuch")


def test_two_replicas_share_the_load_and_scale_follows_kubectl(lab: Lab) -> None:
    with lab.model("pair", replicas=2) as model:
        lab.until_ready(model, 2)
        with lab.traffic(model, clients=4) as flow:
            lab.until("40 answers", lambda: flow.finished >= 40, 120)
        flow.assert_clean(40)
        served = [lab.engine_metric(pod, "vllm:request_success_total") for pod in lab.pods(model)]
        assert min(served) >= 0.25 * sum(served), f"one replica did nearly everything: {served}"

        with lab.traffic(model, clients=2) as flow:
            lab.kubectl("scale", "llm", model, "--replicas=1")
            lab.until_ready(model, 1)
            lab.until("one pod", lambda: len(lab.pods(model)) == 1)
            seen = flow.finished
            lab.until("answers after the scale-in", lambda: flow.finished >= seen + 5)
        flow.assert_clean(5)
        assert lab.get("llm", model)["spec"]["replicas"] == 1
        assert set(lab.kubectl("get", "llm", model, "-o", "jsonpath={.status.selector}").split(",")) >= {
            f"topmast.dev/model={model}"
        }


def test_a_changed_spec_makes_a_new_revision_without_a_failed_request(lab: Lab) -> None:
    with lab.model("change") as model:
        first = lab.until_ready(model)["status"]["revision"]
        # Another spelling of the same intent is no new revision: nothing restarts.
        uids = lab.ready_uids(model)
        lab.apply(llm(model, replicas=1, engine={"dtype": "auto"}))
        lab.until_ready(model)
        assert lab.ready_uids(model) == uids

        with lab.traffic(model, clients=2) as flow:
            lab.apply(llm(model, engine={"maxModelLen": 1024}, rollout={"revisionHistoryLimit": 0}))
            lab.until("a new revision", lambda: lab.get("llm", model)["status"]["revision"] != first)
            second = lab.until_ready(model)["status"]["revision"]
            lab.until("only pods of the new revision", lambda: revisions_of_pods(lab, model) == {second})
            seen = flow.finished
            lab.until("answers of the new revision", lambda: flow.finished >= seen + 5)
        flow.assert_clean(5)
        lab.until("the old Deployment is gone", lambda: len(lab.list("deploy", f"topmast.dev/model={model}")) == 1)


def revisions_of_pods(lab: Lab, model: str) -> set[str]:
    return {pod["metadata"]["labels"]["topmast.dev/revision"] for pod in lab.pods(model)}


def test_suspend_removes_every_pod_and_resume_brings_the_model_back(lab: Lab) -> None:
    with lab.model("nap") as model:
        lab.until_ready(model)
        lab.kubectl("patch", "llm", model, "--type=merge", "-p", '{"spec":{"suspend":true}}')
        lab.until("no pod", lambda: not lab.pods(model))
        lab.until("the status says why", lambda: "suspend" in lab.condition(model, "Ready")["message"].lower())
        with pytest.raises(openai.APIStatusError) as refused:
            lab.ask(model)
        assert refused.value.status_code == 503
        lab.kubectl("patch", "llm", model, "--type=merge", "-p", '{"spec":{"suspend":false}}')
        lab.until_ready(model)
        assert "Tokyo" in lab.ask(model)


def test_delete_removes_every_child(lab: Lab) -> None:
    with lab.model("gone", replicas=2) as model:
        lab.until_ready(model, 2)
        assert {child["kind"] for child in children(lab, model)} >= {
            "Deployment",
            "ReplicaSet",
            "Pod",
            "Service",
            "PodDisruptionBudget",
            "ConfigMap",
            "NetworkPolicy",
        }
        lab.kubectl("delete", "llm", model)
        lab.until("no child is left", lambda: not children(lab, model))


def children(lab: Lab, model: str) -> list[dict]:  # type: ignore[type-arg]
    kinds = "deployments,replicasets,pods,services,poddisruptionbudgets,configmaps,networkpolicies,endpointslices"
    return lab.list(kinds, f"topmast.dev/model={model}")


def test_events_and_columns_tell_the_story(lab: Lab) -> None:
    with lab.model("story") as model:
        lab.until_ready(model)
        header, row = lab.kubectl("get", "llm", model).splitlines()
        shown = dict(zip(header.split(), row.split(), strict=False))
        assert shown["NAME"] == model
        assert shown["READY"] == "1/1"
        events = lab.until(
            "events on the model",
            lambda: lab.kubectl("get", "events", "--field-selector", f"involvedObject.name={model}", "-o", "name"),
        )
        assert events
        times = [entry["lastTransitionTime"] for entry in lab.get("llm", model)["status"]["conditions"]]
        assert all(times)
        assert all(len(a) == len(b) for a, b in pairwise(times))
