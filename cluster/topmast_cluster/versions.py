"""Which versions the cluster is made of. The go.mod files are the one place that pins them; this reads it there."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GO_MODULES = Path(__file__).resolve().parents[1] / "go"


@dataclass(frozen=True)
class GoBuild:
    """One `go build`: its module folder, the pinned module, and program name -> package."""

    folder: str
    module: str
    programs: dict[str, str]

    @property
    def version(self) -> str:
        return _pinned(self.folder, self.module)

    @property
    def key(self) -> str:
        """The cache key: the version, and a digest of all pins, so that a patched dependency is built as well."""
        pins = hashlib.sha256((GO_MODULES / self.folder / "go.sum").read_bytes()).hexdigest()[:8]
        return f"{self.folder}-{self.version}-{pins}"

    def link_flags(self) -> str:
        """Version stamps: without them kubectl and Helm would see a v0.0.0 server."""
        stamps = _kubernetes_stamps(self.version) if self.folder == "kubernetes" else {}
        if self.folder == "helm":
            stamps = {"helm.sh/helm/v4/internal/version.version": self.version}
        return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in stamps.items())])


_KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)

BUILDS = (
    GoBuild("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}),
    GoBuild("kubernetes", "k8s.io/kubernetes", {name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES}),
    GoBuild("helm", "helm.sh/helm/v4", {"helm": "helm.sh/helm/v4/cmd/helm"}),
)

# Not part of a cluster: what `make up` pushes to in the tests of a cluster that somebody brings along.
REGISTRY = GoBuild("registry", "github.com/distribution/distribution/v3", {"registry": "."})


@cache
def _pinned(folder: str, module: str) -> str:
    text = (GO_MODULES / folder / "go.mod").read_text()
    match = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", text, re.MULTILINE)
    if match is None:
        raise ValueError(f"cluster/go/{folder}/go.mod does not require {module}")
    return match[1]


def _kubernetes_stamps(version: str) -> dict[str, str]:
    major, minor, _ = version.removeprefix("v").split(".", 2)
    fields = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": version,
        "gitTreeState": "clean",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{field}": value for package in packages for field, value in fields.items()}
