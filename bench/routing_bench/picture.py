"""The policies beside each other as an SVG: a panel per figure and scenario, a bar per policy, a line for the ideal."""

from __future__ import annotations

from html import escape
from typing import Any, Final

COLOURS: Final = {"round robin": "#bbb", "least load": "#edae49", "plain CHWBL": "#d1495b", "topmast": "#30638e"}
WIDTH, ROW, LEFT, TOP = 760, 20, 130, 50
FIGURES: Final = (("hit_rate", "prompt tokens found in a cache, %", 100.0), ("ttft_mean_s", "mean TTFT, s", 1.0))


def draw(report: dict[str, Any]) -> str:
    """Scenarios with an ideal above zero, and those that share nothing."""
    parts: list[str] = []
    y = TOP
    for name, scenario in report["scenarios"].items():
        if "ideal_hit_rate" not in scenario:
            continue
        for figure, label, factor in FIGURES:
            ideal = scenario["ideal_hit_rate"] * factor if figure == "hit_rate" else None
            if ideal == 0:
                continue
            parts.append(f'<text x="{LEFT}" y="{y + 15}" font-weight="bold">{escape(f"{name}: {label}")}</text>')
            y += ROW
            values = {policy: one[figure] * factor for policy, one in scenario["runs"].items()}
            parts += _bars(values, ideal, y)
            y += ROW * (len(values) + 1)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" '
        'font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="22" font-size="15">Which pod: {report["requests"]} requests of {escape(report["trace"])}, '
        "4 simulated engines</text>",
        '<text x="12" y="40" fill="#666">dotted: one cache as large as all four together</text>',
    ]
    return "\n".join([*head, *parts, "</svg>\n"])


def _bars(values: dict[str, float], ideal: float | None, y: int) -> list[str]:
    scale = (WIDTH - LEFT - 90) / max([*values.values(), ideal or 0.0])
    parts = []
    for place, (name, value) in enumerate(values.items()):
        top = y + place * ROW
        parts += [
            f'<text x="{LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{top + 3}" width="{value * scale:.1f}" height="{ROW - 6}" fill="{COLOURS[name]}"/>',
            f'<text x="{LEFT + value * scale + 6:.1f}" y="{top + 14}">{value:.3g}</text>',
        ]
    if ideal:
        x = LEFT + ideal * scale
        parts.append(f'<path d="M{x:.1f} {y}v{ROW * len(values)}" stroke="black" stroke-dasharray="2 3"/>')
    return parts
