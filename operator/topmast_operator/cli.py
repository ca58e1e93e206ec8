"""`topmast operator`: the command line, logging, and the event loop of the operator process."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import uvloop
from kubernetes.aio.config import ConfigException

from topmast_operator.act.client import Api
from topmast_operator.render.template import EngineDefaults
from topmast_operator.run import logs
from topmast_operator.run.engine_access import EngineAccess
from topmast_operator.run.operator import Operator, Options
from topmast_operator.run.pod_defaults import PodDefaultsError, read_pod_defaults

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def main() -> int:
    """Run until told to stop. 0: stopped; 1: lost its Lease or failed; 2: bad usage."""
    arguments = _parser().parse_args()
    logs.set_up(arguments.log_format, verbose=arguments.verbose)
    if arguments.gateway_selector and arguments.shared_token_file is None:
        _parser().error("--gateway-selector needs --shared-token-file: gateways tell their queues to nobody else")
    namespace = arguments.lease_namespace or _own_namespace() or (arguments.namespace or [None])[0]
    if namespace is None:
        _parser().error("--lease-namespace is needed outside of a pod")
    try:
        pod_defaults = read_pod_defaults(arguments.engine_pod_defaults) if arguments.engine_pod_defaults else {}
    except PodDefaultsError as error:
        print(f"topmast operator: --engine-pod-defaults: {error}", file=sys.stderr)
        return 2
    try:
        access = _engine_access(arguments)
    except ValueError as error:
        print(f"topmast operator: {error}", file=sys.stderr)
        return 2
    options = Options(
        namespaces=tuple(dict.fromkeys(arguments.namespace or ())),
        engine_defaults=EngineDefaults(arguments.engine_image, pod_defaults, closed=arguments.closed_engines),
        lease_namespace=namespace,
        lease_name=arguments.lease_name,
        metrics_host=arguments.metrics_host,
        metrics_port=arguments.metrics_port,
        resync_s=arguments.resync_s,
        shared_token_file=arguments.shared_token_file,
        gateway_selector=arguments.gateway_selector,
        engine_access=access,
        engine_ingress=arguments.engine_network_policy,
    )
    return int(uvloop.run(_run(options)))


async def _run(options: Options) -> int:
    try:
        api = await Api.connect()
    except ConfigException as error:
        print(f"topmast operator: no cluster to talk to: {error}. Set KUBECONFIG, or run in a pod.", file=sys.stderr)
        return 2
    try:
        return await Operator(api, options).run()
    except OSError as error:
        at = f"{options.metrics_host} port {options.metrics_port}"
        print(f"topmast operator: cannot listen on {at}: {error}. Choose another --metrics-port.", file=sys.stderr)
        return 2
    finally:
        await api.close()


def _engine_access(arguments: argparse.Namespace) -> EngineAccess:
    """ValueError, with a remedy, where flags or files do not go together."""
    if arguments.closed_engines and arguments.engine_keys is None:
        raise ValueError("--closed-engines needs --engine-keys DIR: engines would serve nobody")
    try:
        return EngineAccess(
            arguments.engine_keys, arguments.engine_metrics_token, metrics_open=arguments.open_engine_metrics
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot use the keys or the scrape token of engines: {error}") from error


def _own_namespace() -> str | None:
    if not os.environ.get("KUBERNETES_SERVICE_HOST") or not SERVICE_ACCOUNT_NAMESPACE.exists():
        return None
    return SERVICE_ACCOUNT_NAMESPACE.read_text().strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="topmast operator", description="Reconcile LLMDeployments into engine pods.")
    add = parser.add_argument
    add("--namespace", action="append", metavar="NS", help="watch this namespace only; may be repeated; default all")
    add("--engine-image", required=True, metavar="IMAGE", help="engine image for models that name none")
    add(
        "--engine-pod-defaults", type=Path, metavar="PATH", help="YAML or JSON of the shape of spec.pod, for all models"
    )
    add("--engine-keys", type=Path, metavar="DIR", help="Ed25519 keys: engines know all *.pem, signing.pem signs")
    add("--closed-engines", action="store_true", help="engines of new revisions serve only who shows a token")
    add("--engine-metrics-token", type=Path, metavar="PATH", help="who shows this token may read engines' metrics")
    add("--open-engine-metrics", action="store_true", help="everybody may read engines' metrics")
    add("--engine-network-policy", type=_rules, metavar="JSON", help="ingress rules of a NetworkPolicy for all engines")
    add("--lease-namespace", metavar="NS", help="where the Lease lives; in a pod the default is its own namespace")
    add("--lease-name", default="topmast-operator", metavar="NAME")
    add("--metrics-host", default="::", help="default :: is every address, of IPv4 and IPv6")
    add("--metrics-port", type=int, default=8080, help="/metrics, /healthz, /readyz, /wake (default 8080)")
    add("--resync-s", type=_seconds, default=600.0, metavar="S", help="look at every model this often (default 600)")
    add("--shared-token-file", type=Path, metavar="PATH", help="take POST /wake/NS/NAME from who knows this token")
    add(
        "--gateway-selector",
        default="",
        metavar="LABELS",
        help="ask gateway pods with these labels, beside the Lease, what waits for scaled models; default: ask nobody",
    )
    add("--log-format", choices=logs.FORMATS, default="text", help="json: one object a line (default text)")
    add("--verbose", action="store_true", help="log debug messages")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be between 1 and 3600 seconds")
    return value


def _rules(text: str) -> list[dict[str, Any]]:
    try:
        rules = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from None
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise argparse.ArgumentTypeError("must be a list of NetworkPolicyIngressRules")
    return rules
