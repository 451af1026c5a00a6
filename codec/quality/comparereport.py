"""A comparison as a table, comparison.csv, .json, .md, curve.svg and a page with players and spectrograms.

>>> import tempfile
>>> [path.name for path in write_comparison(tempfile.mkdtemp(), Comparison((), (), (), (), "clean speech"), {})]
['comparison.csv', 'comparison.json', 'comparison.md', 'curve.svg', 'comparison.html']
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import CodecError
from codec.files import atomic_path, describe_os_error
from codec.quality.compare import Comparison, Point, points_of
from codec.quality.curve import Dot, Panel, Series, draw
from codec.quality.reportpage import STYLE, example_sections, heading, mean_cell, scrolling
from codec.quality.scores import HEADINGS, WEIGHTS, interval, number, score_names
from codec.quality.systems import Facts

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = ("pesq", "stoi", "dnsmos", "dwer")  # scores with a panel of the curve, where they were taken
ABOUT = ("data", "command", "machine", "date")  # what a caller may tell of a comparison


def write_comparison(folder: str | os.PathLike[str], result: Comparison, about: Mapping[str, str]) -> tuple[Path, ...]:
    """Write the five files into `folder`, which is made if missing; older ones are replaced.

    Args:
        folder: any.
        result: what was measured.
        about: the data, the command, the machine and the date, by these names.

    Raises:
        CodecError: the folder cannot be made or written.
        AudioError: an example holds samples that are not numbers.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise CodecError(f"{place}: cannot be made a folder: {describe_os_error(failure)}") from failure
    names = ("comparison.csv", "comparison.json", "comparison.md", "curve.svg", "comparison.html")
    paths = tuple(place / name for name in names)
    with atomic_path(paths[0], overwrite=True) as temporary:
        _write_csv(temporary, result)
    texts = (_json(result, about), markdown(result, about), curve(result), page(result, about))
    for path, text in zip(paths[1:], texts, strict=True):
        with atomic_path(path, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    return paths


def table(result: Comparison, *, group: str | None = None) -> Table:
    """Give the means with their intervals as a table for the terminal; of one group where that is named."""
    from rich.table import Table

    rows = [row for row in result.rows if group is None or row.group == group]
    names = score_names([row.scores for row in rows])
    n_files = len({row.file for row in rows})
    title = f"{'' if group is None else f'{group}: '}{n_files} files, {result.condition}"
    shown = Table(title=title, title_justify="left")
    for i, title in enumerate(_headings(names)):
        shown.add_column(title, justify="left" if i < 2 else "right")
    facts = {one.name: one for one in result.facts}
    for point in points_of(rows):
        means = point.means
        scores = [f"{number(means[name].value, HEADINGS[name][2])}\n{interval(name, means[name])}" for name in names]
        shown.add_row(*_cells(point, facts[point.system]), *(score.rstrip() for score in scores))
    return shown


def markdown(result: Comparison, about: Mapping[str, str]) -> str:
    """Give the means as tables for a document: facts of the codecs, then scores over all files and over each group."""
    points = points_of(result.rows)
    facts = {one.name: one for one in result.facts}
    cells = [_cells(point, facts[point.system]) for point in points]
    parts = [f"`{about['command']}`"] if about.get("command") else []
    parts += [_markdown_table(_headings(()), cells)]
    for group in (None, *sorted({row.group for row in result.rows} - {""})):
        rows = [row for row in result.rows if group is None or row.group == group]
        names = score_names([row.scores for row in rows])
        lines = []
        for point in points_of(rows):
            known = [(name, point.means[name]) for name in names]
            scores = [f"{number(mean.value, HEADINGS[name][2])} ({interval(name, mean)})" for name, mean in known]
            lines.append([point.system, point.label, *(score.removesuffix(" ()") for score in scores)])
        title = f"{group or 'All'}: {len({row.file for row in rows})} files, {result.condition}"
        parts += [title, _markdown_table(["codec", "set to", *(HEADINGS[name][0] for name in names)], lines)]
    return "\n\n".join(parts) + "\n"


def curve(result: Comparison) -> str:
    """Give the picture of quality against bitrate, as SVG."""
    return draw(_panels(result), title=f"Quality against bitrate, {result.condition}")


def _panels(result: Comparison) -> list[Panel]:
    points = points_of(result.rows)
    names = score_names([row.scores for row in result.rows]) if result.rows else ()
    panels = []
    for name in [name for name in SHOWN if name in names] or names[:2]:
        lines = []
        for facts in result.facts:
            dots = tuple(Dot(point.bitrate, point.means[name]) for point in points if point.system == facts.name)
            lines.append(Series(facts.name, dots, is_ours=facts.parameters is not None))
        panels.append(Panel(name, tuple(lines)))
    return panels


def page(result: Comparison, about: Mapping[str, str]) -> str:
    """Give the page as text: it needs no network and no script.

    Raises:
        AudioError: an example holds samples that are not numbers.
    """
    n_files = len({row.file for row in result.rows})
    told = [f"{n_files} files, {escape(result.condition)}; everything is judged at 16 kHz."]
    told += [f"{name.capitalize()}: <code>{escape(about[name])}</code>." for name in ABOUT if about.get(name)]
    groups = sorted({row.group for row in result.rows} - {""})
    charts = "".join(draw([panel], title=f"{HEADINGS[panel.score][0]} against bitrate") for panel in _panels(result))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Comparison</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        f"<header><h1>Comparison</h1>{''.join(f'<p>{line}</p>' for line in told)}</header><main>",
        f'<h2>Quality against bitrate</h2><div class="charts">{charts}</div>',
        "<p>Bars: where the mean lies with 95 % probability (bootstrap over files).</p>",
        f"<h2>Means</h2>{_html_table(result, None)}",
        "<p>↑ more is better, ↓ less is better. Small: the interval of 95 % probability. Bitrates are counted: bits of "
        "codes or packets, without container. RTF is the time to encode and decode over the audio's.</p>",
        *(f"<h2>{escape(_counted(result, group))}</h2>{_html_table(result, group)}" for group in groups),
    ]
    if result.examples:
        parts += ["<h2>Listen and look</h2>", *example_sections(result.examples)]
    return "\n".join([*parts, "</main></body></html>", ""])


def _counted(result: Comparison, group: str) -> str:
    return f"{group}, {len({row.file for row in result.rows if row.group == group})} files"


def _headings(names: Sequence[str]) -> list[str]:
    facts = ["codec", "set to", "kbit/s", "frames/s", "codebooks", "parameters", "GMAC/s", "RTF", "latency", "streams"]
    return facts + [HEADINGS[name][0] for name in names]


def _cells(point: Point, facts: Facts) -> list[str]:
    """What is not a score, as text."""
    books = "-" if point.codebooks is None else str(point.codebooks)
    if point.codebooks is not None and facts.codebook_size is not None:
        books += f" x {facts.codebook_size}"
    return [
        point.system,
        point.label,
        number(point.bitrate / 1000, 2),
        "-" if facts.frame_rate is None else f"{facts.frame_rate:g}",
        books,
        "-" if facts.parameters is None else f"{facts.parameters / 1e6:.1f} M",
        number(facts.gmacs, 2),
        number(point.rtf, 4),
        "-" if facts.latency is None else f"{1000 * facts.latency:.0f} ms",
        {True: "yes", False: "no", None: "-"}[facts.is_streaming],
    ]


def _markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def _html_table(result: Comparison, group: str | None) -> str:
    rows = [row for row in result.rows if group is None or row.group == group]
    names = score_names([row.scores for row in rows])
    heads = [("Set to", ""), ("Bitrate", "kbit/s"), *map(heading, names), ("RTF", "time / audio, ↓"), ("Codebooks", "")]
    columns = "".join(f'<th scope="col">{head}<span class="unit">{unit}</span></th>' for head, unit in heads)
    facts = {one.name: one for one in result.facts}
    lines = []
    for system, points in itertools.groupby(points_of(rows), key=lambda point: point.system):
        name = f"<span>{escape(system)}<small>{escape(_told(facts[system]))}</small></span>"
        lines.append(f'<tr class="codec"><th scope="rowgroup" colspan="{len(heads)}">{name}</th></tr>')
        for point in points:
            _, label, rate, _, books, *_ = _cells(point, facts[system])
            scores = "".join(mean_cell(name, point.means[name]) for name in names)
            rest = f"<td>{number(point.rtf, 4)}</td><td>{escape(books)}</td>"
            lines.append(f'<tr><th scope="row">{escape(label)}</th><td>{rate}</td>{scores}{rest}</tr>')
    label = escape(group or "Means")
    return f"{scrolling(label)}<table><thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _told(facts: Facts) -> str:
    """What a codec is, as one line; what is not known is left out."""
    known = [
        facts.frame_rate is not None and f"{facts.frame_rate:g} frames/s",
        facts.parameters is not None and f"{facts.parameters / 1e6:.1f} M parameters",
        not math.isnan(facts.gmacs) and f"{number(facts.gmacs, 2)} GMAC/s",
        facts.latency is not None and f"{1000 * facts.latency:.0f} ms of latency",
        {True: "streams", False: "whole files", None: ""}[facts.is_streaming],
        facts.note,
    ]
    return "; ".join(text for text in known if text)


def _write_csv(path: Path, result: Comparison) -> None:
    """One row per file and operating point; an unknown score is an empty cell."""
    scores = [row.scores for row in result.rows]
    names = [*score_names(scores), *(name for name in WEIGHTS.values() if any(name in one for one in scores))]
    with open(path, "w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        facts = ["codec", "set_to", "codebooks", "file", "group", "condition", "seconds", "bitrate", "rtf"]
        writer.writerow([*facts, *names])
        for row in result.rows:
            rtf = (row.encode_seconds + row.decode_seconds) / row.seconds
            about = [row.system, row.label, row.codebooks, row.file, row.group, result.condition, row.seconds]
            values = [row.scores.get(name, math.nan) for name in names]
            numbers = ["" if math.isnan(value) else value for value in (row.n_bits / row.seconds, rtf, *values)]
            writer.writerow(["" if cell is None else cell for cell in about] + numbers)


def _json(result: Comparison, about: Mapping[str, str]) -> str:
    data = {
        **about,
        "condition": result.condition,
        "systems": [dataclasses.asdict(facts) for facts in result.facts],
        "points": [dataclasses.asdict(point) for point in points_of(result.rows)],
        "skipped": dict(result.skipped),
    }
    # NaN is no JSON, and many readers refuse it.
    strict = json.loads(json.dumps(data), parse_constant=lambda _: None)
    return json.dumps(strict, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
