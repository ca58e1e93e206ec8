"""One scenario as an SVG: a panel per figure, a bar per contestant, a whisker from the least to the most repeat."""

from __future__ import annotations

import statistics
from html import escape
from typing import Any, Final

from serving_bench.bars import values_of

COLOURS: Final = ("#30638e", "#d1495b", "#edae49", "#00798c")
WIDTH, ROW, LEFT, TOP = 760, 22, 150, 56
PANELS: Final = (
    ("output_tokens_per_s", "output tokens per second"),
    ("decode_tokens_per_s", "decode, tokens per second of one stream"),
    ("prefill_tokens_per_s", "prefill, tokens per second"),
    ("ttft_ms.p50", "time to first token, p50, ms"),
    ("ttft_ms.p99", "time to first token, p99, ms"),
    ("gap_ms.p99", "between two tokens, p99, ms"),
    ("first_token_s", "process start to first token, s"),
)


def draw(report: dict[str, Any]) -> str:
    """The medians of the repeats. Panels of figures that nobody has are left out."""
    panels = []
    for figure, label in PANELS:
        found = {name: values_of(runs, figure) for name, runs in report["runs"].items()}
        if any(found.values()):
            panels.append((label, found))
    rows = sum(len(found) + 2 for _, found in panels)
    height = TOP + ROW * max(1, rows)
    here = report["machine"]
    noise = "" if here["quiet"] else ", machine NOT quiet"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        'font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{escape(report["scenario"])}: {escape(report["about"])}</text>',
        f'<text x="12" y="40" fill="#666">{escape(here["cpu"])}, {here["cores"]} cores, {here["at"]}{noise}</text>',
    ]
    y = TOP
    for label, found in panels:
        parts.append(f'<text x="{LEFT}" y="{y + 16}" font-weight="bold">{escape(label)}</text>')
        y += ROW
        longest = max((max(values) for values in found.values() if values), default=1.0) or 1.0
        for place, (name, values) in enumerate(found.items()):
            parts += _bar(name, values, y, longest, COLOURS[place % len(COLOURS)])
            y += ROW
        y += ROW
    return "\n".join([*parts, "</svg>\n"])


def _bar(name: str, values: list[float], y: int, longest: float, colour: str) -> list[str]:
    parts = [f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>']
    if not values:
        return [*parts, f'<text x="{LEFT}" y="{y + 15}" fill="#999">not measured</text>']
    scale = (WIDTH - LEFT - 90) / longest
    median, least, most = statistics.median(values), min(values) * scale, max(values) * scale
    end = LEFT + max(median * scale, most) + 6
    return [
        *parts,
        f'<rect x="{LEFT}" y="{y + 3}" width="{median * scale:.1f}" height="{ROW - 7}" fill="{colour}"/>',
        f'<path d="M{LEFT + least:.1f} {y + ROW / 2:.1f}h{most - least:.1f}" stroke="black"/>',
        f'<text x="{end:.1f}" y="{y + 15}">{median:,.4g}</text>',
    ]
