"""`python -m topmast_cluster`: the embedded cluster from the command line."""

import argparse
import os
import sys
from pathlib import Path

from topmast_cluster.binaries import ensure_registry
from topmast_cluster.cluster import Cluster
from topmast_cluster.errors import ClusterError
from topmast_cluster.machine import check_machine, ensure_programs


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; `python -m topmast_cluster stop` removes what was made so far", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m topmast_cluster", description="a real Kubernetes on this machine")
    parser.add_argument("--name", default="topmast", help="topmast or topmast-... (default: topmast)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="bring the cluster up, or add what is missing")
    start.add_argument("--nodes", type=int, default=1, help="0 is a control plane without nodes (default: 1)")
    start.add_argument(
        "--gpus", action="append", default=[], metavar="NODE=COUNT", help="advertise nvidia.com/gpu on a node"
    )
    commands.add_parser("stop", help="remove the cluster and everything that it made")
    commands.add_parser("status", help="what runs; exit code 0 when all of it does")
    commands.add_parser("env", help='for eval "$(... env)": KUBECONFIG, and kubectl and helm on the PATH')
    binaries = commands.add_parser(
        "binaries", help="build what a cluster runs on, if it is not there, and say where it is"
    )
    binaries.add_argument("--registry", action="store_true", help="also the container registry that tests push to")
    kubectl = commands.add_parser("kubectl", help="run kubectl as admin", add_help=False)
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    load = commands.add_parser("load-image", help="import an image archive into every node")
    load.add_argument("archives", nargs="+", type=Path)
    return parser


def _run(options: argparse.Namespace) -> int:
    cluster = Cluster(options.name)
    match options.command:
        case "start":
            cluster.start(options.nodes, _gpus(options.gpus))
            print(f"ready: export KUBECONFIG={cluster.kubeconfig}")
        case "stop":
            cluster.stop()
        case "status":
            return _print_status(cluster)
        case "env":
            environment = cluster.environment()
            print(f"export KUBECONFIG='{environment['KUBECONFIG']}'\nexport PATH='{environment['PATH']}'")
        case "binaries":
            check_machine()
            ensure_programs(cluster.progress)
            directories = cluster.binaries.directories()
            if options.registry:
                directories.append(ensure_registry(cluster.progress).parent)
            print("\n".join(str(directory) for directory in directories))
        case "kubectl":
            environment = {**os.environ, **cluster.environment()}
            kubectl = str(cluster.binaries["kubectl"])
            os.execve(kubectl, [kubectl, *options.arguments], environment)
        case "load-image":
            for archive in options.archives:
                seconds = cluster.load_image(archive)
                print(f"{archive}: " + ", ".join(f"{node} {took:.1f} s" for node, took in seconds.items()))
    return 0


def _gpus(pairs: list[str]) -> dict[str, int]:
    gpus: dict[str, int] = {}
    for pair in pairs:
        node, _, count = pair.partition("=")
        if not count.isdigit():
            raise ClusterError(f"--gpus {pair}: write a node and a count, as in --gpus node-1=2")
        gpus[node] = int(count)
    return gpus


def _print_status(cluster: Cluster) -> int:
    status = cluster.status()
    print(f"{cluster.names.cluster}: {status.state}")
    for node, state in status.nodes.items():
        gpus = status.gpus.get(node, 0)
        print(f"  {node}: {state}" + (f", {gpus} GPUs advertised" if gpus else ""))
    for name in status.down:
        print(f"  {name}: taken down on purpose; `start` brings it back")
    for daemon, alive in status.daemons.items():
        if not alive:
            print(f"  {daemon}: not running; see {cluster.paths.state / daemon}.log")
    if status.state == "running":
        print(f"  kubeconfig: {cluster.kubeconfig}")
    elif status.remains:
        print("  remains: " + "; ".join(status.remains))
        print(f"  `python -m topmast_cluster --name {cluster.names.cluster} start` clears it away and starts anew")
    return 0 if status.state == "running" else 1


if __name__ == "__main__":
    sys.exit(main())
