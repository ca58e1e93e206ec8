"""The command line's flags on who may call: guessing, proxies, TLS, CORS and tokens. Light, for the sake of --help."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path

from topmast_gateway import cors, flag_types
from topmast_gateway.patterns import patterns

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Every flag of this module."""
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
    add("--cors-origin", action="append", default=[], type=_origin, metavar="ORIGIN", help="repeatable; * is any")
    add("--tls-cert", type=Path, metavar="FILE", help="PEM chain; with --tls-key the public port speaks TLS only")
    add("--tls-key", type=Path, metavar="FILE")
    add("--jwt-jwks", metavar="FILE_OR_URL", help="accept tokens that these keys sign, beside API keys")
    add("--jwt-issuer", metavar="ISS", help="the `iss` of every token")
    add("--jwt-audience", metavar="AUD", help="what `aud` of every token must name")
    add("--jwt-name-claim", default="sub", metavar="CLAIM", help="who it is (default %(default)s)")
    add("--jwt-models-claim", default="topmast_models", metavar="CLAIM", help="list of patterns (default %(default)s)")
    add(
        "--jwt-default-models",
        action="append",
        default=[],
        type=_pattern,
        metavar="PATTERN",
        help="for tokens without that claim; repeatable; default: none, they are refused",
    )
    add("--jwt-requests-per-minute", type=flag_types.count, metavar="N", help="for each name")
    add("--jwt-tokens-per-minute", type=flag_types.count, metavar="N", help="for each name")
    add("--jwt-max-streams", type=flag_types.count, metavar="N", help="for each name")


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a network such as 10.0.0.0/8") from None


def _origin(text: str) -> str:
    try:
        return cors.origin(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _pattern(text: str) -> str:
    try:
        return patterns([text])[0]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _count_or_zero(text: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
