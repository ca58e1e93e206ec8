"""The tables of docs/gateway/reference.md, from the gateway's own code: flags, error codes, metrics.

python tests/docs/gateway_reference.py             prints them
python tests/docs/gateway_reference.py --write     writes them into the page anew

What an error code means stands in gateway_error_codes.yaml beside this file; which codes there are is read from the
code, by ast.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace as Fake
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "gateway" / "reference.md"
CODE = ROOT / "gateway" / "topmast_gateway"
MEANINGS = Path(__file__).with_name("gateway_error_codes.yaml")
IN_STREAM, ENGINES_OWN = "in a stream", "the engine's"


@dataclass(frozen=True)
class Raiser:
    """A function that makes an error: places of its status and its code, or the status that it always has."""

    code: int
    status: int | str
    default: str | None = None  # the code where a call names none

    def of(self, call: ast.Call) -> tuple[str | None, str]:
        """The code, None where it is no literal, and the status."""
        code = self.default if len(call.args) <= self.code else _literal(call.args[self.code])
        if isinstance(self.status, str):
            return code, self.status
        return code, _literal(call.args[self.status]) or ENGINES_OWN


RAISERS = {
    "ApiError": Raiser(1, 0),
    "ModelUnavailable": Raiser(1, 0),
    "unavailable": Raiser(0, "503"),
    "model_unavailable": Raiser(0, "503"),
    "sse_error": Raiser(1, IN_STREAM),
    "_refusal": Raiser(0, "429"),
    "_no": Raiser(2, "401", "invalid_api_key"),
    "_stop": Raiser(1, 0),
    "_refuse": Raiser(1, 0),
    "refusal": Raiser(1, 0),
}
# Functions that hand on a code which they were given: their callers are looked at instead.
HAND_ON = {"unavailable", "model_unavailable", "_refusal", "_no", "_stop", "_refuse", "refuse", "refusal"}


def _literal(node: ast.expr) -> str | None:
    return str(node.value) if isinstance(node, ast.Constant) else None


def error_codes(folder: Path = CODE) -> dict[str, set[str]]:
    """Each code that the gateway answers, with its statuses. ValueError where one cannot be read from the code."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.rglob("*.py")):
        for function, call in _calls(ast.parse(path.read_text())):
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            if name not in RAISERS:
                continue
            code, status = RAISERS[name].of(call)
            if code is not None:
                found[code].add(status)
            elif function not in HAND_ON:
                raise ValueError(
                    f"{path.name}:{call.lineno}: write the code as a literal, or add {function} to HAND_ON"
                )
    return dict(found)


def _calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Every call, with the name of the function that it stands in."""
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.Call):
            yield function, node
        yield from _calls(node, inner)


def meanings() -> dict[str, dict[str, str]]:
    """`means` and `do` by code."""
    found: dict[str, dict[str, str]] = yaml.safe_load(MEANINGS.read_text())
    return found


def error_table() -> str:
    """By status, then by code."""
    known = meanings()
    rows = sorted((sorted(statuses), code) for code, statuses in error_codes().items())
    lines = [
        f"| {', '.join(statuses)} | `{code}` | {known[code]['means']} | {known[code]['do']} |"
        for statuses, code in rows
        if code in known
    ]
    return "\n".join(["| status | code | meaning | what to do |", "|---|---|---|---|", *lines])


def flag_table() -> str:
    """In the order of `topmast gateway --help`."""
    from topmast_gateway.flags import parser

    lines = ["| flag | default | |", "|---|---|---|"]
    lines += [_flag(action) for action in parser()._actions if action.dest != "help"]
    return "\n".join(lines)


def _flag(action: argparse.Action) -> str:
    value = "\\|".join(map(str, action.choices)) if action.choices else str(action.metavar or "N")
    unset = action.default is None or action.default == [] or action.default == ""
    usual = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
    default = "required" if action.required else "" if unset else f"`{usual}`"
    text = re.sub(r" \(default( %\(default\)s)?\)", "", action.help or "")
    return f"| `{action.option_strings[0]} {value}` | {default} | {text} |"


def metric_table() -> str:
    """By name."""
    found = re.findall(r"^# HELP (topmast_gateway_\w+) (.*)\n# TYPE \S+ (\w+)$", _metrics(), re.MULTILINE)
    samples = re.findall(r"^(topmast_gateway_\w+?)(?:_bucket|_count|_sum)?(?:\{(.*)\})? \S+$", _metrics(), re.MULTILINE)
    labels: dict[str, set[str]] = defaultdict(set)
    for name, pairs in samples:
        labels[name] |= {label for label in re.findall(r'(\w+)="', pairs) if label != "le"}
    lines = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in sorted(labels[name]))} | {text} |"
        for name, text, kind in sorted(found)
    ]
    return "\n".join(["| name | type | labels | |", "|---|---|---|---|", *lines])


def _metrics() -> str:
    """A page of `/metrics` on which every metric has a sample."""
    from topmast_gateway.limits.overload import OverloadGuard
    from topmast_gateway.messages.token_usage import TokenUsage
    from topmast_gateway.observability.caller_usage import CallerUsage, UsageRecord
    from topmast_gateway.observability.exposition import lines_of
    from topmast_gateway.observability.live_gauges import LiveGauges
    from topmast_gateway.observability.metrics import Metrics
    from topmast_gateway.routing.model_table import Model, ModelTable, Pod

    pod = Pod("uid", "ns", "pod", "ns/m", "address")
    state = Fake(
        routes=ModelTable([Model("ns", "m")], [pod]),
        pods=lambda: [pod],
        keys=(),
        outliers=Fake(ejected=lambda: [pod]),
        informers=[Fake(name="pods", age_s=0.0)],
    )
    loads: Any = [Fake(pod=pod, tokens=1, requests=1)]
    metrics = Metrics()
    for metric in vars(metrics).values():
        if names := getattr(metric, "_labelnames", ()):
            metric.labels(*names)
    for histogram in metrics.latency.all:
        histogram.observe(("ns/m", "revision"), 1.0)
    usage = CallerUsage(lambda: {"ns/m": 1})
    usage.count(UsageRecord(0.0, "request", "caller", "ns/m", TokenUsage(1, 1, 1), 200, "answered", 0.0, 0.0))
    gauges = LiveGauges(metrics, state, loads, OverloadGuard(1))  # type: ignore[arg-type]
    return "".join([*metrics.lines(), *lines_of(gauges), *usage.lines()])


TABLES = {"flags": flag_table, "error codes": error_table, "metrics": metric_table}


def written(page: str) -> str:
    """The page with its tables as they are now."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: written by gateway_reference.py --write -->", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE} lacks the lines {begin!r} and {end!r}")
        page = f"{before}{begin}\n\n{table()}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(written(PAGE.read_text()))
    else:
        print("\n\n".join(table() for table in TABLES.values()))
