"""Quality against bitrate as one SVG picture: text and lines alone, readable on light and on dark paper.

>>> from codec.quality.scores import Mean
>>> line = Series("mine", (Dot(1000.0, Mean(1.3, 1.2, 1.4, 8)), Dot(4000.0, Mean(1.8, 1.7, 1.9, 8))), is_ours=True)
>>> draw([Panel("pesq", (line,))]).count("<circle")
2
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from html import escape

from codec.quality.scores import HEADINGS, Mean, number

# Of series on light and on dark paper, told apart by people with any colour vision and by their marks as well.
# Source: Okabe and Ito, "Color Universal Design" (2008), darkened for light paper to a contrast of 4.5 to 1.
COLOURS = (
    ("#8a2be2", "#cf9bff"),
    ("#b34700", "#ffa25c"),
    ("#00629b", "#6cc4f5"),
    ("#00704f", "#4fd6ab"),
    ("#a3336f", "#f59ccb"),
    ("#6b5a00", "#e3cf5a"),
    ("#4a4a4a", "#c4c4c4"),
)
MARKS = ("circle", "square", "triangle", "diamond")
WIDTH, HEIGHT = 440, 320  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 46  # margins inside a panel
LEGEND_ROW, LEGEND_COLUMN = 20, 200
LETTER, LINE = 6.8, 14  # width of a letter and height of a line of a label, generously
# From a mark to the label beside it: right, above, below, left, then the corners; and how the text is anchored there.
BESIDE = (
    (10, 4, "start"),
    (0, -11, "middle"),
    (0, 20, "middle"),
    (-10, 4, "end"),
    (7, -8, "start"),
    (7, 17, "start"),
    (-7, -8, "end"),
    (-7, 17, "end"),
)
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # kbit/s


@dataclasses.dataclass(frozen=True)
class Dot:
    """One operating point."""

    bitrate: float  # bit/s
    mean: Mean


@dataclasses.dataclass(frozen=True)
class Series:
    """One codec."""

    name: str
    dots: tuple[Dot, ...]
    is_ours: bool = False  # drawn thicker


@dataclasses.dataclass(frozen=True)
class Panel:
    """One score of all codecs."""

    score: str  # in HEADINGS
    series: tuple[Series, ...]


def draw(panels: Sequence[Panel], *, title: str = "Quality against bitrate") -> str:
    """Give the picture as text: one panel per score, two in a row, each line named beside it.

    Where lines leave no place for a name, a legend stands above all panels.

    Args:
        panels: all with the same series in the same order.
        title: for those who cannot see it.
    """
    names = [series.name for series in panels[0].series] if panels else []
    n_columns = min(2, max(1, len(panels)))
    width = WIDTH * n_columns
    per_row = max(1, (width - LEFT) // LEGEND_COLUMN)
    drawn = [_panel(panel) for panel in panels]
    shown = [] if all(is_named for _, is_named in drawn) else names
    legend_height = 12 + LEGEND_ROW * -(-len(shown) // per_row) if shown else 0
    height = legend_height + HEIGHT * -(-len(panels) // n_columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
        f"<style>{_style(len(names))}</style>",
    ]
    for i, name in enumerate(shown):
        x, y = LEFT + i % per_row * LEGEND_COLUMN, 18 + i // per_row * LEGEND_ROW
        ours = " ours" if panels[0].series[i].is_ours else ""
        parts.append(f'<path class="line s{i % len(COLOURS)}{ours}" d="M{x} {y - 4}h24"/>{_mark(i, x + 12, y - 4)}')
        parts.append(f'<text x="{x + 30}" y="{y}">{escape(name)}</text>')
    for i, (panel, _) in enumerate(drawn):
        x, y = i % n_columns * WIDTH, legend_height + i // n_columns * HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{panel}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _style(n_series: int) -> str:
    """Colours by the reader's paper; an image in a page follows the reader's setting too."""
    used = COLOURS[:n_series]
    light = "".join(f".s{i}{{stroke:{a}}}.m{i}{{fill:{a}}}" for i, (a, _) in enumerate(used))
    dark = "".join(f".s{i}{{stroke:{b}}}.m{i}{{fill:{b}}}" for i, (_, b) in enumerate(used))
    return (
        "text{font:12px system-ui,sans-serif;fill:#3d3a45}.head{font-weight:600;font-size:13px}.name{font-weight:600}"
        ".grid{stroke:#8883;stroke-width:1}.line{fill:none;stroke-width:1.75}.ours{stroke-width:3.25}"
        f".bar{{stroke-width:1.25}}{light}"
        f"@media(prefers-color-scheme:dark){{text{{fill:#d6d3de}}{dark}}}"
    )


def _panel(panel: Panel) -> tuple[str, bool]:
    """One score, and whether each of its lines has its name beside it."""
    heading, unit, _, more_is_better = HEADINGS[panel.score]
    dots = [dot for series in panel.series for dot in series.dots if not math.isnan(dot.mean.value)]
    arrow = "more is better" if more_is_better else "less is better"
    parts = [f'<text class="head" x="{LEFT}" y="20">{escape(heading)} ({escape(unit)}; {arrow})</text>']
    if not dots:
        return "".join([*parts, f'<text x="{LEFT}" y="{TOP + 20}">nothing measured</text>']), True
    low, high, step = _scale([value for dot in dots for value in _ends(dot.mean)])
    rates = [math.log(dot.bitrate / 1000) for dot in dots]
    left, right = min(rates) - 0.12, max(rates) + 0.12

    def x_of(kbps: float) -> float:
        return LEFT + (math.log(kbps) - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        y = y_of(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{number(value, decimals)}</text>')
    last = -math.inf
    for tick in TICKS:
        if left <= math.log(tick) <= right and x_of(tick) - last > 26:
            last = x_of(tick)
            parts.append(f'<path class="grid" d="M{last:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            parts.append(f'<text x="{last:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:g}" y="{HEIGHT - 10}" text-anchor="middle">bitrate, kbit/s</text>')
    lines = _lines(panel, x_of, y_of)
    names = _names(panel, x_of, y_of)
    return "".join([*parts, *lines, *names]), len(names) == sum(bool(_known(series)) for series in panel.series)


def _lines(panel: Panel, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> list[str]:
    """Lines, intervals and marks; kbit/s and scores to places."""
    parts = []
    for i, series in enumerate(panel.series):
        known = _known(series)
        at = [(x_of(dot.bitrate / 1000), y_of(dot.mean.value)) for dot in known]
        colour = i % len(COLOURS)
        if at:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
            parts.append(f'<path class="line s{colour}{" ours" if series.is_ours else ""}" d="M{path}"/>')
        for dot, (x, y) in zip(known, at, strict=True):
            if not math.isnan(dot.mean.low):
                ends = f"M{x:.1f} {y_of(dot.mean.low):.1f}V{y_of(dot.mean.high):.1f}"
                parts.append(f'<path class="bar s{colour}" d="{ends}"/>')
            parts.append(_mark(i, x, y))
    return parts


def _names(panel: Panel, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> list[str]:
    """The name of each line where it hides nothing, beside its last mark or another; left out where there is none."""
    lines = [[(x_of(d.bitrate / 1000), y_of(d.mean.value)) for d in _known(series)] for series in panel.series]
    taken = [point for line in lines for point in _along(line)]
    for dot in (dot for series in panel.series for dot in _known(series)):
        taken += _along([(x_of(dot.bitrate / 1000), y_of(end)) for end in _ends(dot.mean)])
    parts = []
    for i, (series, line) in enumerate(zip(panel.series, lines, strict=True)):
        for (x, y), (right, down, anchor) in ((point, place) for point in reversed(line) for place in BESIDE):
            wide = LETTER * len(series.name)
            left = x + right - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            top = y + down - 0.8 * LINE
            inside = left >= LEFT and left + wide <= WIDTH - 2 and top >= TOP and top + LINE <= HEIGHT - BOTTOM
            if not inside or any(left - 3 <= a <= left + wide + 3 and top - 2 <= b <= top + LINE + 2 for a, b in taken):
                continue
            taken += _along([(left, top + LINE / 2), (left + wide, top + LINE / 2)])
            text = f'x="{x + right:.1f}" y="{y + down:.1f}" text-anchor="{anchor}">{escape(series.name)}'
            parts.append(f'<text class="name m{i % len(COLOURS)}" {text}</text>')
            break
    return parts


def _along(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points on a line, at most 4 apart."""
    points = list(line)
    for (x1, y1), (x2, y2) in itertools.pairwise(line):
        n = math.ceil(math.dist((x1, y1), (x2, y2)) / 4)
        points += [(x1 + (x2 - x1) * k / n, y1 + (y2 - y1) * k / n) for k in range(1, n)]
    return points


def _known(series: Series) -> list[Dot]:
    """What was measured, from low to high bitrate."""
    return sorted((d for d in series.dots if not math.isnan(d.mean.value)), key=lambda dot: dot.bitrate)


def _ends(mean: Mean) -> tuple[float, ...]:
    return (mean.value,) if math.isnan(mean.low) else (mean.low, mean.value, mean.high)


def _scale(values: Sequence[float]) -> tuple[float, float, float]:
    """A lowest and a highest round number around the values, and the step between grid lines.

    >>> _scale([1.3, 2.9])
    (1.0, 3.0, 0.5)
    """
    span = max(max(values) - min(values), 1e-3)
    rough = span / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return math.floor(min(values) / step) * step, math.ceil(max(values) / step + 1e-9) * step, step


def _mark(i: int, x: float, y: float) -> str:
    colour, mark = f"m{i % len(COLOURS)}", MARKS[i % len(MARKS)]
    if mark == "circle":
        return f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    shapes = {"square": "m-4-4h8v8h-8z", "triangle": "m0-5l5 9h-10z", "diamond": "m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z"}
    return f'<path class="{colour}" d="M{x:.1f} {y:.1f}{shapes[mark]}"/>'
