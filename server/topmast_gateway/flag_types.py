"""What the command line's words may be: each function reads one, or says what is wrong with it."""

from __future__ import annotations

import argparse
import re
from urllib.parse import urlsplit

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def name(text: str) -> str:
    """A Kubernetes name."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a Kubernetes name: use lower-case letters, digits and '-'")
    return text


def url(text: str) -> str:
    """A base URL; `tcp://` is how Kubernetes writes a Service's address into the environment of a pod."""
    if "$(" in text:
        raise argparse.ArgumentTypeError(f"{text!r} was not replaced: the operator's Service did not exist yet")
    parts = urlsplit(text)
    is_base = parts.scheme in ("http", "https", "tcp") and parts.hostname and not parts.query and not parts.fragment
    if text and not is_base:
        raise argparse.ArgumentTypeError(f"{text!r} is not a base URL such as http://topmast-operator:8080")
    return parts._replace(scheme="http").geturl() if parts.scheme == "tcp" else text


def port(text: str) -> int:
    """A port; 0 is a free one."""
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use 1 to 65535, or 0 for a free one")
    return int(text)


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    """Up to a day."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds between 0 and 86400")
    return value


def positive(text: str) -> float:
    """Up to a day, and more than nothing."""
    if (value := seconds(text)) == 0:
        raise argparse.ArgumentTypeError("0 s is no time at all: use a larger number")
    return value
