"""Closed doors: who is in the cluster and is neither gateway nor operator gets nothing from an engine.

The embedded cluster's network enforces no NetworkPolicy, so every connection comes through: the engine itself refuses.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator

import pytest

from cluster.lab import RELEASE, SYSTEM, Lab, Object, address
from engine_keys import new_key, new_pem
from topmast_access.signing import SigningKey
from topmast_access.terms import GATEWAY, OPERATOR

ELSEWHERE = "elsewhere"
ASK = """
import sys, urllib.request, urllib.error
url, token, body = sys.argv[1:]
headers = {"content-type": "application/json"} | ({"authorization": "Bearer " + token} if token else {})
call = urllib.request.Request(url, body.encode() or None, headers)
try:
    with urllib.request.urlopen(call, timeout=20) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
QUESTION = json.dumps({"model": "shut", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
Call = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def engine(lab: Lab) -> Iterator[Object]:
    """The pod of a model, as the chart makes it."""
    with lab.model("shut") as model:
        lab.until_ready(model)
        yield lab.pods(model)[0]


@pytest.fixture(scope="module")
def call(lab: Lab) -> Iterator[Call]:
    """Calls from a pod of another namespace, which may connect to everything and has no credentials."""
    operator = lab.get("deployment", f"{RELEASE}-operator", SYSTEM)["spec"]["template"]["spec"]["containers"][0]
    container = {
        "name": "curious",
        "image": operator["image"],
        "command": ["python3", "-c", "import time; time.sleep(900)"],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "curious", "namespace": ELSEWHERE},
        "spec": {"containers": [container], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0},
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ELSEWHERE}}
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    lab.until("its service account", lambda: lab.get("serviceaccount", "default", ELSEWHERE))
    lab.apply(pod)
    lab.kubectl("-n", ELSEWHERE, "wait", "--for=condition=Ready", "pod/curious", "--timeout=60s")

    def call(url: str, token: str = "", body: str = "") -> tuple[int, str]:
        said = lab.kubectl("-n", ELSEWHERE, "exec", "curious", "--", "python3", "-c", ASK, url, token, body)
        status, _, text = said.partition(" ")
        return int(status), text.strip()

    yield call
    lab.kubectl("delete", "namespace", ELSEWHERE, "--wait=false")


def refused(answer: tuple[int, str]) -> bool:
    return answer[0] == 401 and json.loads(answer[1])["error"]["code"] == "invalid_engine_token"


def test_without_a_token_there_is_no_answer_on_either_port(lab: Lab, engine: Object, call: Call) -> None:
    at = address(engine)
    before = lab.engine_metric(engine, "topmast_refused_tokens_total")
    routes = [(8000, "/v1/models", ""), (8000, "/v1/chat/completions", QUESTION), (8000, "/metrics", "")]
    routes += [(8001, path, "") for path in ("/state", "/metrics", "/v1/models")]
    routes += [(8001, "/drain", "{}")]
    for port, path, body in routes:
        assert refused(call(f"http://{at}:{port}{path}", body=body)), f"{port}{path}"
    service = lab.get("service", "shut")["spec"]["clusterIP"]
    assert refused(call(f"http://{service}/v1/chat/completions", body=QUESTION)), "the model's Service is no way in"
    assert lab.engine_metric(engine, "topmast_refused_tokens_total") >= before + len(routes) + 1
    assert lab.ready_uids("shut") == {engine["metadata"]["uid"]}, "nobody drained it"


def test_probes_are_open_and_say_one_word(engine: Object, call: Call) -> None:
    for path in ("/health", "/ready"):
        assert call(f"http://{address(engine)}:8000{path}") == (200, "ok")


def test_a_token_opens_the_model_that_it_is_for_and_no_other(lab: Lab, engine: Object, call: Call) -> None:
    at = address(engine)
    assert call(f"http://{at}:8000/v1/chat/completions", lab.engine_token("shut"), QUESTION)[0] == 200
    status, text = call(f"http://{at}:8001/state", lab.engine_token("shut", OPERATOR))
    assert status == 200 and json.loads(text)["phase"] == "ready"
    assert refused(call(f"http://{at}:8000/v1/models", lab.engine_token("other")))
    forged = new_key().sign("default/shut", GATEWAY, time.time())
    assert refused(call(f"http://{at}:8000/v1/models", forged)), "signed by somebody else"
    assert refused(call(f"http://{at}:8000/v1/models", lab.key)), "an API key is for the gateway"
    old = lab.get("secret", f"{RELEASE}-shared-token", SYSTEM)["data"]["token"]
    assert refused(call(f"http://{at}:8001/state", base64.b64decode(old).decode()))


def test_the_scrape_token_opens_metrics_and_nothing_else(lab: Lab, engine: Object, call: Call) -> None:
    at = address(engine)
    status, text = call(f"http://{at}:8000/metrics", lab.scrape_token)
    assert status == 200 and "vllm:num_requests_running" in text
    assert refused(call(f"http://{at}:8000/v1/models", lab.scrape_token))


def test_through_the_gateway_it_answers_and_the_operator_hears_of_it(lab: Lab, engine: Object) -> None:
    assert "Tokyo" in lab.ask("shut")
    # Only the engine itself can have told.
    assert lab.until("its weights are known", lambda: lab.get("llm", "shut")["status"]["model"]["weightsBytes"])


def test_what_a_model_is_given_holds_no_secret(lab: Lab, engine: Object) -> None:
    (mounted,) = [item for item in engine["spec"]["volumes"] if item["name"] == "topmast-access"]
    assert mounted["configMap"]["name"] == "shut-access"
    content = json.loads(lab.get("configmap", "shut-access")["data"]["access.json"])
    assert content["keys"] and all("d" not in key for key in content["keys"])
    assert lab.scrape_token not in json.dumps(content)
    for account in (f"{RELEASE}-operator", f"{RELEASE}-gateway"):
        who = f"--as=system:serviceaccount:{SYSTEM}:{account}"
        said = lab.kubectl("auth", "can-i", "get", "secrets", "-n", "default", who, check=False)
        assert said.strip().startswith("no")


def test_the_signing_key_is_replaced_under_traffic_and_nothing_restarts(lab: Lab, engine: Object, call: Call) -> None:
    """The three steps of docs/security.md."""
    secret, at = f"{RELEASE}-engine-keys", address(engine)
    uids = uids_in(lab, SYSTEM) | lab.ready_uids("shut")
    old = lab.get("secret", secret, SYSTEM)["data"]["signing.pem"]
    new = base64.b64encode(new_pem()).decode()

    def change(**data: str | None) -> None:
        named = {f"{name}.pem": value for name, value in data.items()}
        lab.kubectl("-n", SYSTEM, "patch", "secret", secret, "--type=merge", "-p", json.dumps({"data": named}))
        # A kubelet looks at the Secrets of a pod now and then, and at once when the pod changes.
        mark = f"test/looked-at={time.time_ns()}"
        lab.kubectl("-n", SYSTEM, "annotate", "pods", "-l", "app.kubernetes.io/name=topmast", mark, "--overwrite")

    def opens(pem: str) -> bool:
        token = SigningKey(base64.b64decode(pem)).sign("default/shut", GATEWAY, time.time())
        return call(f"http://{at}:8000/v1/models", token)[0] == 200

    def signs(component: str, pem: str) -> bool:
        path = "/etc/topmast/engine-keys/signing.pem"
        read = ("exec", f"deploy/{RELEASE}-{component}", "--", "python3", "-c", f"print(open({path!r}).read())")
        return lab.kubectl("-n", SYSTEM, *read).strip() == base64.b64decode(pem).decode().strip()

    with lab.traffic("shut", clients=2) as flow:
        change(next=new)
        lab.until("the engine knows the next key", lambda: opens(new))
        assert opens(old)
        change(signing=new, next=old)
        for component in ("operator", "gateway"):
            lab.until(f"the {component} has it", lambda component=component: signs(component, new))
        time.sleep(6)  # files are looked at every five seconds
        change(next=None)
        lab.until("the old key is worth nothing", lambda: not opens(old))
        seen = flow.finished
        lab.until("it answers on", lambda: flow.finished >= seen + 3)
    flow.assert_clean(5)
    assert uids_in(lab, SYSTEM) | lab.ready_uids("shut") == uids


def uids_in(lab: Lab, namespace: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in lab.list("pods", "app.kubernetes.io/name=topmast", namespace)}
