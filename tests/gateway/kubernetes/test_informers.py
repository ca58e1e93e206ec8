"""The API server goes away, forgets, or refuses: the gateway serves on what it knows, and catches up."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kubernetes.aio import client as aio_client
from kubernetes.aio import config as aio_config

from gateway.lab.engines import Engine
from gateway.lab.stage import KEY, SECRET, SYSTEM, Gateway, Stage, eventually, hashed, soon
from topmast_cluster.cluster import Cluster
from topmast_gateway.kubernetes.client import KubeClient
from topmast_gateway.kubernetes.informer import Informer

CHAT = "/v1/chat/completions"
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def outage(cluster: Cluster) -> Iterator[Callable[[bool], None]]:
    """`outage(True)` stops the API server, `outage(False)` brings it back; it is back at the end."""
    down = False

    def change(stop: bool) -> None:
        nonlocal down
        (cluster.stop_apiserver if stop else cluster.start_apiserver)()
        down = stop

    yield change
    if down:
        cluster.start_apiserver()


async def test_traffic_continues_without_the_api_server_and_changes_are_seen_after_it(
    stage: Stage,
    gateway: Gateway,
    new_gateway: Callable[..., Gateway],
    namespace: str,
    http: httpx.AsyncClient,
    outage: Callable[[bool], None],
) -> None:
    async with Engine(chunks=40, pause_s=0.1) as old, Engine() as new:
        stage.model(namespace, "m")
        first = stage.pod(namespace, "m", old.ip)
        gateway.sees(f"{namespace}/m", 1)
        body = {"model": f"{namespace}/m"}
        streaming = asyncio.create_task(http.post(CHAT, json={**body, "stream": True}))
        await asyncio.to_thread(outage, True)
        for _ in range(20):
            assert (await http.post(CHAT, json=body)).status_code == 200
            await asyncio.sleep(0.1)
        assert gateway.ready() == 200
        assert gateway.metric("topmast_gateway_watch_age_seconds", resource="pods") > 1

        newborn = await asyncio.to_thread(new_gateway)  # knows nothing, and says so instead of guessing
        assert newborn.ready() == 503
        answer = await http.get(f"{newborn.url}/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "starting")

        await asyncio.to_thread(outage, False)
        stage.pod(namespace, "m", new.ip)
        first.delete()
        async with asyncio.timeout(60):  # one pod before, one pod after: only an answer shows which
            while (answer := await http.post(CHAT, json=body)).json()["served_by"] != new.ip:
                assert answer.status_code == 200
        gateway.sees(f"{namespace}/m", 1)
        await soon(lambda: newborn.ready() == 200, "the one that started in the outage", 20)
        assert (await streaming).text.rstrip().endswith("data: [DONE]")
        complaints = [line for line in gateway.lines if "cannot watch pods" in line]
        assert 1 <= len(complaints) <= 6, "said once per kind of trouble, not once per try"


async def test_a_version_that_is_too_old_leads_to_a_new_list(stage: Stage, namespace: str) -> None:
    lists = 0

    class Forgetful(KubeClient):
        """The first list comes with a version that the API server has long forgotten."""

        async def get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
            nonlocal lists
            lists += 1
            answer = await super().get(path, query)
            return {**answer, "metadata": {"resourceVersion": "1"}} if lists == 1 else answer

    settings = aio_client.Configuration()
    await aio_config.load_kube_config(str(stage.kubeconfig), client_configuration=settings)
    kube = Forgetful(aio_client.ApiClient(settings))
    mirror = Informer("pods", f"/api/v1/namespaces/{namespace}/pods", lambda pod: pod["metadata"]["name"], lambda: None)
    following = asyncio.create_task(mirror.follow(kube))
    try:
        await soon(lambda: lists == 2, "a second list")
        pod = await asyncio.to_thread(stage.pod, namespace, "m", "127.0.0.1")
        await soon(lambda: list(mirror.items.values()) == [pod.name], "a later event")
        assert lists == 2
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await kube.close()


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, ValueError, RecursionError])
def test_an_object_that_cannot_be_read_costs_itself_alone(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the whole process."""

    def parse(item: dict[str, Any]) -> str:
        if "odd" in item:
            raise error("SECRET")
        return str(item["metadata"]["name"])

    def an_object(name: str, **more: Any) -> dict[str, Any]:
        return {"metadata": {"uid": name, "name": name, "resourceVersion": "1"}, **more}

    informer = Informer("things", "/things", parse, lambda: None)
    for item in (an_object("one"), an_object("two", odd=1), an_object("three"), an_object("two", odd=1)):
        informer._apply("ADDED", item)
    assert sorted(informer.items.values()) == ["one", "three"]
    assert len(caplog.messages) == 1 and "'two'" in caplog.text and "SECRET" not in caplog.text
    informer._apply("MODIFIED", an_object("one", odd=1))
    assert list(informer.items) == ["three"], "what is not understood is not served by what it was"
    informer._apply("MODIFIED", an_object("two"))
    assert sorted(informer.items) == ["three", "two"]


def test_more_objects_than_one_page_are_all_seen(stage: Stage, gateway: Gateway, namespace: str) -> None:
    names = [f"many-{number}" for number in range(5)]
    for name in names:
        stage.model(namespace, name)
    seen: dict[str, str] = {}

    async def look() -> None:
        settings = aio_client.Configuration()
        await aio_config.load_kube_config(str(stage.kubeconfig), client_configuration=settings)
        kube = KubeClient(aio_client.ApiClient(settings))
        path = f"/apis/topmast.dev/v1alpha1/namespaces/{namespace}/llmdeployments"
        mirror = Informer("models", path, lambda model: model["metadata"]["name"], lambda: None, page_size=2)
        following = asyncio.create_task(mirror.follow(kube))
        await soon(lambda: mirror.synced, "the list")
        seen.update(mirror.items)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await kube.close()

    asyncio.run(look())
    assert sorted(seen.values()) == names


READ = ["list", "watch"]


@pytest.fixture
def account(stage: Stage, tmp_path: Path) -> Callable[..., Path]:
    """A kubeconfig with exactly these rights: the gateway's rules in `namespaces`, its Secret if `secret`."""

    def make(*namespaces: str, secret: bool = True) -> Path:
        home = stage.namespace()
        stage.core.create_namespaced_service_account(home, {"metadata": {"name": "gateway"}})
        rules = [
            {"apiGroups": ["topmast.dev"], "resources": ["llmdeployments"], "verbs": READ},
            {"apiGroups": [""], "resources": ["pods"], "verbs": READ},
        ]
        granted = [(namespace, rules) for namespace in namespaces]
        if secret:
            one = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": READ}
            granted.append((SYSTEM, [one]))
        for namespace, its in granted:
            name = f"gateway-{home}"
            subject = {"kind": "ServiceAccount", "name": "gateway", "namespace": home}
            role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
            stage.rbac.create_namespaced_role(namespace, {"metadata": {"name": name}, "rules": its})
            binding = {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
            stage.rbac.create_namespaced_role_binding(namespace, binding)
        body = {"spec": {"expirationSeconds": 3600}}
        token = stage.core.create_namespaced_service_account_token("gateway", home, body).status.token
        settings = yaml.safe_load(stage.kubeconfig.read_text())
        settings["users"] = [{"name": user["name"], "user": {"token": token}} for user in settings["users"]]
        path = tmp_path / f"{home}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return make


async def test_two_namespaces_are_served_with_rights_in_these_two_alone(
    stage: Stage, new_gateway: Callable[..., Gateway], account: Callable[..., Path]
) -> None:
    mine, also_mine, foreign = stage.namespace(), stage.namespace(), stage.namespace()
    async with Engine() as engine:
        for namespace in (mine, also_mine, foreign):
            stage.model(namespace, f"of-{namespace}")
            stage.pod(namespace, f"of-{namespace}", engine.ip)
        flags = ["--namespace", mine, "--namespace", also_mine]
        gateway = new_gateway(*flags, kubeconfig=account(mine, also_mine)).wait_ready()
        async with httpx.AsyncClient(base_url=gateway.url, headers=HEADERS) as http:
            listed = {model["id"] for model in (await http.get("/v1/models")).json()["data"]}
            assert listed == {f"of-{mine}", f"of-{also_mine}"}
            for model in listed:
                assert (await http.post(CHAT, json={"model": model})).status_code == 200
            assert (await http.post(CHAT, json={"model": f"of-{foreign}"})).status_code == 404


def test_missing_rights_are_named(
    stage: Stage, new_gateway: Callable[..., Gateway], account: Callable[..., Path], namespace: str
) -> None:
    gateway = new_gateway("--namespace", namespace, kubeconfig=account(namespace, secret=False))
    eventually(lambda: any("service account" in line for line in gateway.lines), "a sentence in the log")

    def missing() -> str:
        answer = httpx.get(f"{gateway.admin_url}/readyz")
        assert answer.status_code == 503
        return answer.text

    eventually(lambda: "pods" not in missing(), "what it may read is there")
    assert f"secret {SYSTEM}/{SECRET}" in missing()


def test_a_key_in_another_secret_opens_nothing(stage: Stage, gateway: Gateway) -> None:
    data = base64.b64encode(hashed("tm-stranger").encode()).decode()
    stage.core.create_namespaced_secret(SYSTEM, {"metadata": {"name": "another"}, "data": {"stranger": data}})
    assert gateway.metric("topmast_gateway_api_keys") == 1
    response = httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": "Bearer tm-stranger"})
    assert response.status_code == 401
