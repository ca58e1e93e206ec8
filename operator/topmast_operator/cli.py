"""`topmast operator`: the command line, logging, and the event loop of the operator process."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from kubernetes.aio.config import ConfigException

from topmast_operator.act.client import Api
from topmast_operator.run.operator import Operator, Options

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def main() -> int:
    """Run until told to stop. 0: stopped; 1: lost its Lease or failed; 2: bad usage."""
    arguments = _parser().parse_args()
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("kopf").setLevel(logging.WARNING)  # one line per event otherwise
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # it warns that signals are not its own
    if arguments.gateway_selector and arguments.shared_token_file is None:
        _parser().error("--gateway-selector needs --shared-token-file: gateways tell their queues to nobody else")
    namespace = arguments.lease_namespace or _own_namespace() or (arguments.namespace or [None])[0]
    if namespace is None:
        _parser().error("--lease-namespace is needed outside of a pod")
    options = Options(
        namespaces=tuple(dict.fromkeys(arguments.namespace or ())),
        engine_image=arguments.engine_image,
        lease_namespace=namespace,
        lease_name=arguments.lease_name,
        metrics_host=arguments.metrics_host,
        metrics_port=arguments.metrics_port,
        resync_s=arguments.resync_s,
        shared_token_file=arguments.shared_token_file,
        gateway_selector=arguments.gateway_selector,
    )
    return asyncio.run(_run(options))


async def _run(options: Options) -> int:
    try:
        api = await Api.connect()
    except ConfigException as error:
        print(f"topmast operator: no cluster to talk to: {error}. Set KUBECONFIG, or run in a pod.", file=sys.stderr)
        return 2
    try:
        return await Operator(api, options).run()
    except OSError as error:
        at = f"{options.metrics_host}:{options.metrics_port}"
        print(f"topmast operator: cannot listen on {at}: {error}. Choose another --metrics-port.", file=sys.stderr)
        return 2
    finally:
        await api.close()


def _own_namespace() -> str | None:
    if not os.environ.get("KUBERNETES_SERVICE_HOST") or not SERVICE_ACCOUNT_NAMESPACE.exists():
        return None
    return SERVICE_ACCOUNT_NAMESPACE.read_text().strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="topmast operator", description="Reconcile LLMDeployments into engine pods.")
    add = parser.add_argument
    add("--namespace", action="append", metavar="NS", help="watch this namespace only; may be repeated; default all")
    add("--engine-image", required=True, metavar="IMAGE", help="engine image for models that name none")
    add("--lease-namespace", metavar="NS", help="where the Lease lives; in a pod the default is its own namespace")
    add("--lease-name", default="topmast-operator", metavar="NAME")
    add("--metrics-host", default="0.0.0.0")
    add("--metrics-port", type=int, default=8080, help="/metrics, /healthz, /readyz, /wake (default 8080)")
    add("--resync-s", type=_seconds, default=30.0, metavar="S", help="look at every model this often (default 30)")
    add("--shared-token-file", type=Path, metavar="PATH", help="take POST /wake/NS/NAME from who knows this token")
    add(
        "--gateway-selector",
        default="",
        metavar="LABELS",
        help="ask gateway pods with these labels, beside the Lease, what waits for scaled models; default: ask nobody",
    )
    add("--verbose", action="store_true", help="log debug messages")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be between 1 and 3600 seconds")
    return value
