"""`make down`: removes everything that `make up` made. The caches of programs and images stay for the next time."""

import sys

from topmast_cluster.cluster import Cluster
from topmast_cluster.errors import ClusterError
from topmast_cluster.progress import Progress
from topmast_cluster.quickstart.chart import uninstall_chart
from topmast_cluster.quickstart.target import MODEL_NAMESPACE, Target, wants_own_cluster
from topmast_cluster.up import MODEL


def main() -> int:
    progress = Progress()
    try:
        if wants_own_cluster():
            _clear_own(progress)
        else:
            Cluster(progress=progress).stop()
    except ClusterError as error:
        print(f"\nmake down stopped: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _clear_own(progress: Progress) -> None:
    """The example model and the release; other models in the cluster, and with them the CRD, are left alone."""
    target = Target.own("not needed for removal")
    with progress.phase("remove model and chart"):
        target.kubectl("delete", "llmdeployment", MODEL, "-n", MODEL_NAMESPACE, "--ignore-not-found", check=False)
        uninstall_chart(target)


if __name__ == "__main__":
    sys.exit(main())
