"""`make up`: from nothing to a chat answer on Kubernetes, with every phase and its seconds shown.

Only the order of the phases is decided here; each of them is done by a module of its own.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topmast_cluster.cluster import Cluster
from topmast_cluster.errors import ClusterError
from topmast_cluster.images.build import Image, ensure_images, push_images
from topmast_cluster.images.load import load_images
from topmast_cluster.images.recipe import CHECKOUT
from topmast_cluster.machine import check_machine
from topmast_cluster.progress import Progress
from topmast_cluster.quickstart.ask import Answer, ask, client_key
from topmast_cluster.quickstart.chart import install_chart
from topmast_cluster.quickstart.model import apply_model, await_model, stale_image
from topmast_cluster.quickstart.target import SYSTEM_NAMESPACE, Target, wants_own_cluster

MODEL = "smollm2"
MANIFEST = CHECKOUT / "examples" / "smollm2.yaml"
QUESTION = "What is the capital of Japan?"


class Stages:
    """Seconds of the few big steps; Progress shows the small ones in between."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.current = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.current, began = name, time.monotonic()
        print(f"==> {name}", file=sys.stderr, flush=True)
        yield
        self.seconds[name] = time.monotonic() - began

    def total_s(self) -> float:
        return time.monotonic() - self.began


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m topmast_cluster.up", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the seconds of every phase there")
    options = parser.parse_args()
    progress, stages = Progress(), Stages()
    try:
        answer = _up(progress, stages)
    except ClusterError as error:
        where = f"{stages.current}: " if stages.current else ""
        print(f"\nmake up stopped. {where}{error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted; `make up` goes on from here, `make down` removes what was made", file=sys.stderr)
        return 130
    print(_table(stages), file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(_report(progress, stages, answer), indent=1) + "\n")
    return 0


def _up(progress: Progress, stages: Stages) -> Answer:
    own = wants_own_cluster()
    registry = os.environ.get("IMAGE_REGISTRY") or os.environ.get("TOPMAST_IMAGE_REGISTRY")
    target, images = _on_own(registry, progress, stages) if own else _on_embedded(progress, stages)
    with stages.stage("chart"), progress.phase("operator and gateway ready"):
        # One gateway: the embedded cluster lends its cores to the models.
        install_chart(target, images, *(() if own else ("--set", "gateway.replicas=1")))
    with stages.stage("model"), progress.phase(f"{MODEL} Ready") as detail:
        apply_model(target, MANIFEST)
        await_model(target, MODEL, detail)
    with stages.stage("answer"), target.gateway_url() as url:
        key = client_key(target)
        print(f"\nQ: {QUESTION}\nA: ", end="", flush=True)
        answer = ask(url, key, MODEL, QUESTION)
    rate = answer.output_tokens / answer.total_s
    print(f"   (first token after {answer.first_token_s:.2f} s, {answer.output_tokens} tokens, {rate:.0f}/s)\n")
    wanted = f"{registry}/{images['server'].reference}" if own else images["server"].reference
    old = stale_image(target, MODEL, wanted)
    if old:
        progress.say(
            f"{MODEL} runs on as it was started, with {old}; this checkout's image is {wanted}. "
            f"To start it anew: kubectl delete llm {MODEL}, then make up"
        )
    print(_next_commands(own, url))
    return answer


def _on_embedded(progress: Progress, stages: Stages) -> tuple[Target, dict[str, Image]]:
    check_machine()
    cluster = Cluster(progress=progress)
    with stages.stage("binaries"):
        _ = cluster.binaries
    with stages.stage("images"):
        images = ensure_images(progress)
    with stages.stage("cluster"):
        cluster.start(nodes=1)
    with stages.stage("import"), progress.phase("images into the node"):
        load_images(cluster, images.values())
    return Target.embedded(cluster), images


def _on_own(registry: str | None, progress: Progress, stages: Stages) -> tuple[Target, dict[str, Image]]:
    target = Target.own(registry)
    with stages.stage("cluster"), progress.phase("your cluster answers"):
        target.kubectl("get", "--raw", "/readyz", timeout_s=20)
    with stages.stage("images"):
        images = ensure_images(progress)
    with stages.stage("push"):
        push_images(images, str(target.registry), progress)
    return target, images


def _next_commands(own: bool, url: str) -> str:
    namespace = SYSTEM_NAMESPACE
    if own:
        enter = f"kubectl -n {namespace} port-forward svc/topmast-gateway 8080:80 &"
        url = "http://127.0.0.1:8080"
    else:
        python = shlex.quote(os.path.relpath(sys.executable))
        enter = f'eval "$({python} -m topmast_cluster env)"            # KUBECONFIG, kubectl and helm'
    body = '{"model": "smollm2", "messages": [{"role": "user", "content": "Name three sails."}]}'
    return f"""What to type next:
  {enter}
  kubectl get llm                                        # ready, phase, revision
  KEY=$(kubectl -n {namespace} get secret topmast-first-key -o jsonpath='{{.data.key}}' | base64 -d)
  curl {url}/v1/chat/completions -H "Authorization: Bearer $KEY" \\
    -H 'Content-Type: application/json' -d '{body}'
  kubectl scale llm {MODEL} --replicas=2                  # the gateway shares the load
  kubectl delete pod -l topmast.dev/model={MODEL}         # another one takes over
  kubectl describe llm {MODEL}                            # its story, in sentences
  make down                                              # remove everything
"""


def _table(stages: Stages) -> str:
    lines = [f"  {name:<10} {seconds:7.1f} s" for name, seconds in stages.seconds.items()]
    return "\n".join(["Seconds by phase:", *lines, f"  {'total':<10} {stages.total_s():7.1f} s"])


def _report(progress: Progress, stages: Stages, answer: Answer) -> dict[str, object]:
    return {
        "stages_s": {name: round(seconds, 2) for name, seconds in stages.seconds.items()},
        "steps_s": {name: round(seconds, 2) for name, seconds in progress.seconds.items()},
        "total_s": round(stages.total_s(), 2),
        "answer": {
            "text": answer.text,
            "first_token_s": round(answer.first_token_s, 3),
            "total_s": round(answer.total_s, 3),
            "output_tokens": answer.output_tokens,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
