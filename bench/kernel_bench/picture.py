"""The results as one SVG: a panel per operation, time over batch, one line per contestant. No package needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from kernel_bench.machine import Machine
from kernel_bench.problem import Result

COLOURS = ("#d1495b", "#30638e", "#edae49", "#00798c", "#8d6b94", "#6b705c")
WIDTH, HEIGHT, LEFT, TOP, COLUMNS = 420, 300, 60, 40, 3
SIZES = ("batch", "sequences", "tokens")  # the first of them that a problem has is drawn to the right


def draw(machine: Machine, results: Sequence[Result]) -> str:
    """Cold medians in microseconds, both axes logarithmic; the floor is one empty kernel plus bytes at copy speed."""
    panels: dict[str, list[Result]] = {}
    for result in results:
        if result.cold_us is not None:
            panels.setdefault(_panel(result), []).append(result)
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    size = f'width="{COLUMNS * WIDTH}" height="{rows * HEIGHT + TOP}"'
    bandwidth = f", copy {machine.copy_gb_per_s:.0f} GB/s" if machine.copy_gb_per_s else ""
    title = f"{machine.name}{bandwidth}, torch {machine.torch}, Triton {machine.triton}: cold median, microseconds"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="24" font-size="15">{escape(title)}</text>',
    ]
    for n, (label, members) in enumerate(sorted(panels.items())):
        parts += _draw_panel(label, members, n % COLUMNS * WIDTH, n // COLUMNS * HEIGHT + TOP)
    return "\n".join([*parts, "</svg>\n"])


def _axis(result: Result) -> str:
    return next((name for name in SIZES if name in result.size), "size")


def _panel(result: Result) -> str:
    rest = ", ".join(f"{key} {value}" for key, value in result.size.items() if key != _axis(result))
    return f"{result.operation}: {rest}"


def _draw_panel(label: str, members: list[Result], x: float, y: float) -> list[str]:
    width, height = WIDTH - LEFT - 20, HEIGHT - 100
    at = [float(member.size.get(_axis(member), 1)) for member in members]
    times = [time for member in members for time in (member.cold_us, member.floor_us) if time]
    across, down = _scale(at, x + LEFT, width), _scale(times, y + 30 + height, -height)
    parts = [f'<text x="{x + LEFT}" y="{y + 18}" font-weight="bold">{escape(label)}</text>']
    for time in sorted({10.0**power for power in range(-2, 7)} | {3 * 10.0**power for power in range(-2, 7)}):
        if min(times) <= time <= max(times):
            parts.append(f'<path d="M{x + LEFT} {down(time):.1f}h{width}" stroke="#ddd"/>')
            parts.append(f'<text x="{x + LEFT - 6}" y="{down(time) + 4:.1f}" text-anchor="end">{time:g}</text>')
    for value in sorted(set(at)):
        parts.append(f'<text x="{across(value):.1f}" y="{y + 46 + height}" text-anchor="middle">{value:g}</text>')
    names = list(dict.fromkeys(member.contestant for member in members))
    lines = [(name, [(m, m.cold_us) for m in members if m.contestant == name], "") for name in names]
    first = [(m, m.floor_us) for m in members if m.contestant == names[0] and m.floor_us]
    lines += [("floor", first, ' stroke-dasharray="4 3"')] if first else []
    for n, (name, line, dash) in enumerate(lines):
        colour = "#999" if name == "floor" else COLOURS[n % len(COLOURS)]
        points = sorted((across(float(m.size.get(_axis(m), 1))), down(time)) for m, time in line if time)
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5" fill="{colour}"/>' for px, py in points if not dash]
        key_x, key_y = x + LEFT + n % 2 * 180, y + 62 + height + n // 2 * 13
        parts.append(f'<text x="{key_x}" y="{key_y}" fill="{colour}">{escape(name)}</text>')
    return parts


def _scale(values: Sequence[float], start: float, length: float):
    """A function from a positive value to its place on a logarithmic axis."""
    low, high = math.log(min(values)), math.log(max(values))
    spread = (high - low) or 1.0
    return lambda value: start + length * (math.log(value) - low) / spread
