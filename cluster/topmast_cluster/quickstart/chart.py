"""Installs, upgrades and removes the chart with Helm. What stands in the chart is the chart's business."""

from topmast_cluster.errors import ClusterError
from topmast_cluster.images.build import Image
from topmast_cluster.images.recipe import CHECKOUT
from topmast_cluster.quickstart.target import SYSTEM_NAMESPACE, Target

RELEASE = "topmast"
CHART = CHECKOUT / "charts" / "topmast"
CRD = "llmdeployments.topmast.dev"


def image_values(images: dict[str, Image], registry: str | None = None) -> list[str]:
    """Helm arguments that name these very images."""
    arguments = ["--set-string", f"images.registry={registry or ''}"]
    for name, image in images.items():
        arguments += ["--set-string", f"images.{name}.tag={image.tag}"]
    return arguments


def install_chart(target: Target, images: dict[str, Image], *values: str) -> None:
    """Installs or upgrades; returns when operator and gateway are ready."""
    done = target.helm(
        *("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM_NAMESPACE, "--create-namespace"),
        *("--wait", "--timeout", "120s", *image_values(images, target.registry), *values),
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(
            f"the chart could not be installed: {done.stderr.strip()}\n{pods_in_trouble(target, SYSTEM_NAMESPACE)}"
        )


def uninstall_chart(target: Target) -> None:
    """Also the CRD that the chart keeps, but only when no model is left anywhere."""
    target.helm("uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE, "--ignore-not-found", "--wait")
    target.kubectl("delete", "namespace", SYSTEM_NAMESPACE, "--ignore-not-found", timeout_s=180)
    models = target.kubectl("get", "llmdeployments", "-A", "-o", "name", check=False)
    if models.returncode == 0 and not models.stdout.strip():
        target.kubectl("delete", "crd", CRD, "--ignore-not-found")


def pods_in_trouble(target: Target, namespace: str) -> str:
    """What a person would look at next: the pods, and the last lines of those that are not ready."""
    table = target.kubectl("get", "pods", "-n", namespace, "-o", "wide", check=False).stdout.strip()
    parts = [f"  Pods in {namespace}:", *(f"    {line}" for line in table.splitlines())]
    waiting = "{range .items[*].status.containerStatuses[*]}{.state.waiting.message}{'\\n'}{end}"
    why = target.kubectl("get", "pods", "-n", namespace, "-o", f"jsonpath={waiting}", check=False).stdout
    parts += [f"  {line[:300]}" for line in dict.fromkeys(why.splitlines()) if line]
    pods = target.kubectl("get", "pods", "-n", namespace, "-o", "name", check=False).stdout.split()
    for pod in pods:
        logs = target.kubectl("logs", "-n", namespace, pod, "--tail=8", check=False)
        text = (logs.stdout or logs.stderr).strip()
        parts += [f"  Last lines of {pod}:", *(f"    {line[:200]}" for line in text.splitlines())]
    return "\n".join(parts)
