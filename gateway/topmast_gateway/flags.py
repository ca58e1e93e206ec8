"""The flags of `topmast gateway`, and what their values may be: a wrong one is answered with its remedy.

Light, so that --help and a wrong flag answer at once.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from topmast_gateway.http.cors import origin
from topmast_gateway.identity.caller import parse_patterns
from topmast_gateway.observability import logs

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def parser() -> argparse.ArgumentParser:
    """All flags of `topmast gateway`."""
    flags = argparse.ArgumentParser(
        prog="topmast gateway", description="The data path in front of all engine pods.", allow_abbrev=False
    )
    add = flags.add_argument
    add(
        "--namespace",
        action="append",
        default=[],
        type=_name,
        metavar="NS",
        help="serve the models of this namespace; repeatable; default: of all",
    )
    add("--keys-secret", required=True, type=_name, metavar="NAME", help="the Secret of API keys")
    add("--keys-namespace", type=_name, metavar="NS", help="the namespace of that Secret; default: the pod's own")
    add(
        "--snapshot",
        type=Path,
        metavar="FILE",
        help="keep models, pods and hashes of keys there, to start from while the API server is away; default: nowhere",
    )
    _add_access(flags)
    add("--host", default="::", metavar="ADDRESS", help="of the public port; :: is every address of IPv4 and IPv6")
    add("--port", default=8080, type=_port, help="of the API (default %(default)s)")
    add("--admin-host", default="::", metavar="ADDRESS", help="of the admin port (default %(default)s)")
    add("--admin-port", default=8081, type=_port, help="metrics and probes (default %(default)s)")
    add(
        "--hold-s",
        default=60.0,
        type=_seconds,
        help="longest wait for a pod while none is ready (default %(default)s)",
    )
    add(
        "--resume-hold-s",
        default=300.0,
        type=_seconds,
        help="longest wait for a pod that continues a started answer (default %(default)s)",
    )
    add(
        "--operator-url",
        default="",
        type=_url,
        metavar="URL",
        help="the operator, which wakes models that sleep; default: none, they are not woken",
    )
    add("--shared-token-file", type=Path, metavar="PATH", help="the token that operator and gateways share")
    add("--signing-key", type=Path, metavar="PATH", help="PEM of the Ed25519 key that signs tokens for engines")
    add(
        "--silence-s",
        default=5.0,
        type=_positive,
        help="longest silence of an engine that keeps a journal (default %(default)s)",
    )
    add(
        "--progress-timeout-s",
        default=120.0,
        type=_positive,
        help="longest silence of any other stream (default %(default)s)",
    )
    add(
        "--answer-timeout-s",
        default=1200.0,
        type=_positive,
        help="longest wait for any other answer that is not streamed (default %(default)s)",
    )
    add(
        "--log-format",
        choices=logs.FORMATS,
        default="text",
        help="format of all but the access log (default %(default)s)",
    )
    add(
        "--access-log",
        default="-",
        metavar="WHERE",
        help="a JSON line for every request: a file, - for standard output (default), or off",
    )
    add("--max-streams", default=2000, type=_count, help="requests that are open at once (default %(default)s)")
    add(
        "--drain-notice-s",
        default=3.0,
        type=_seconds,
        help="keep taking requests after SIGTERM (default %(default)s)",
    )
    add(
        "--drain-timeout-s",
        default=600.0,
        type=_positive,
        help="longest wait for open requests after that (default %(default)s)",
    )
    _add_sharing(flags)
    return flags


def _add_access(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("who may call").add_argument
    add(
        "--failures-per-minute",
        default=20,
        type=_count_or_zero,
        metavar="N",
        help="wrong keys from one address before the answer is 429 (default %(default)s); 0: no limit",
    )
    add(
        "--trusted-proxies",
        action="append",
        default=[],
        type=_network,
        metavar="CIDR",
        help="believe X-Forwarded-For of these; repeatable; default: of nobody",
    )
    add(
        "--cors-origin",
        action="append",
        default=[],
        type=_origin,
        metavar="ORIGIN",
        help="pages of this origin may call; repeatable; * is any",
    )
    add("--tls-cert", type=Path, metavar="FILE", help="PEM chain; with --tls-key the public port speaks TLS only")
    add("--tls-key", type=Path, metavar="FILE", help="PEM of its private key")
    add("--jwt-jwks", metavar="FILE_OR_URL", help="accept tokens that these keys sign, beside API keys")
    add("--jwt-issuer", metavar="ISS", help="the `iss` of every token")
    add("--jwt-audience", metavar="AUD", help="what `aud` of every token must name")
    add(
        "--jwt-name-claim", default="sub", metavar="CLAIM", help="the claim that names the caller (default %(default)s)"
    )
    add(
        "--jwt-models-claim",
        default="topmast_models",
        metavar="CLAIM",
        help="the claim with patterns of models (default %(default)s)",
    )
    add(
        "--jwt-default-models",
        action="append",
        default=[],
        type=_pattern,
        metavar="PATTERN",
        help="models for tokens without that claim; repeatable; default: none, they are refused",
    )
    add(
        "--jwt-team-claim",
        metavar="CLAIM",
        help="the claim that names a team, whose limits the token shares; default: none",
    )
    add("--jwt-requests-per-minute", type=_count, metavar="N", help="limit for each name")
    add("--jwt-tokens-per-minute", type=_count, metavar="N", help="limit for each name")
    add("--jwt-budget-tokens", type=_count, metavar="N", help="budget of each name, per --jwt-budget-period")
    add(
        "--jwt-budget-period",
        choices=("day", "month", "total"),
        default="month",
        help="of the calendar, UTC (default %(default)s)",
    )
    add("--jwt-max-streams", type=_count, metavar="N", help="requests of each name that are open at once")


def _add_sharing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--requests-per-pod",
        default=32,
        type=_count,
        help="requests at a pod that does not report how many it runs (default %(default)s)",
    )
    add(
        "--queue-s",
        default=30.0,
        type=_positive,
        help="longest wait in the queue while every pod is busy (default %(default)s)",
    )
    add("--queue-requests", default=512, type=_count, help="requests in the queue of one model (default %(default)s)")
    add("--peers", type=_host_and_port, metavar="NAME:PORT", help="admin ports of all gateways, to add up their usage")
    add(
        "--cache-isolation",
        choices=("caller", "none"),
        default="caller",
        help="who shares cached prompts: each caller alone, or all of them (default %(default)s)",
    )
    add("--usage-log", metavar="WHERE", help="a JSON line for every request: a file, a directory, or - for stdout")


def _name(text: str) -> str:
    """A Kubernetes name."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a Kubernetes name: use lower-case letters, digits and '-'")
    return text


def _url(text: str) -> str:
    """A base URL; `tcp://` is how Kubernetes writes a Service's address into the environment of a pod."""
    if "$(" in text:
        raise argparse.ArgumentTypeError(f"{text!r} was not replaced: the operator's Service did not exist yet")
    parts = urlsplit(text)
    is_base = parts.scheme in ("http", "https", "tcp") and parts.hostname and not parts.query and not parts.fragment
    if text and not is_base:
        raise argparse.ArgumentTypeError(f"{text!r} is not a base URL such as http://topmast-operator:8080")
    return parts._replace(scheme="http").geturl() if parts.scheme == "tcp" else text


def _port(text: str) -> int:
    """A port; 0 is a free one."""
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use 1 to 65535, or 0 for a free one")
    return int(text)


def _count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    """Up to a day."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds between 0 and 86400")
    return value


def _positive(text: str) -> float:
    """Up to a day, and more than nothing."""
    if (value := _seconds(text)) == 0:
        raise argparse.ArgumentTypeError("0 s is no time at all: use a larger number")
    return value


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a network such as 10.0.0.0/8") from None


def _origin(text: str) -> str:
    try:
        return origin(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _pattern(text: str) -> str:
    try:
        return parse_patterns([text])[0]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _count_or_zero(text: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _host_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a DNS name and a port: write NAME:8081")
    return text
