"""The evaluation as one HTML page that needs nothing else: no network, no script; `codec.quality.report` writes it.

>>> from codec.quality.scores import EvalResult
>>> page(EvalResult("tiny", "0123abcd", "2026-11-21", "dev", (), ()), ()).splitlines()[0]
'<!doctype html>'
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from codec.audio import check_samples
from codec.audiowriter import flac_bytes
from codec.quality.metrics import CodebookUse
from codec.quality.scores import (
    HEADINGS,
    QUALITIES,
    EvalResult,
    Example,
    Floats,
    Mean,
    Summary,
    interval,
    number,
    summarize,
)
from codec.quality.spectrogram import loudness_db, picture

STYLE = """
:root { color-scheme: light dark; --ink: #1c1a22; --soft: #635e70; --line: #dcd8e4; --paper: #fbfafd; --card: #fff;
  --accent: #7b2f8f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eceaf2; --soft: #a9a4b8; --line: #3a3646; --paper: #16141c; --card: #1f1c28; --accent: #d79be6; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; overflow-wrap: anywhere; }
p, figcaption, .unit, .interval { color: var(--soft); } p { margin: .25rem 0; max-width: 60rem; }
code { font: .875em/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
a { color: var(--accent); } :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.wide { overflow-x: auto; margin-bottom: .75rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; } thead th { font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
tr > th:first-child { position: sticky; left: 0; background: var(--card); }
.codec ~ tr > th { font-weight: 400; }
.codec > th:first-child { background: var(--paper); padding-top: .9rem; font-weight: 600; }
.codec span { position: sticky; left: .8rem; display: inline-block; max-width: min(70rem, calc(100vw - 5rem));
  white-space: normal; } .codec small { font-size: .85rem; font-weight: 400; color: var(--soft); margin-left: .5rem; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.charts svg { width: 100%; height: auto; max-width: 40rem; }
details { border-top: 1px solid var(--line); padding: .5rem 0; } summary { cursor: pointer; }
summary h3 { display: inline; } .versions { margin-top: .75rem; }
.wide:has(.narrow) { width: fit-content; max-width: 100%; }
.unit, .interval { display: block; font-size: .78rem; font-weight: 400; }
.versions { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); }
figure { margin: 0; padding: .75rem; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
figcaption { font-size: .9rem; margin-bottom: .5rem; } figcaption b { display: block; color: var(--ink); }
figure img { display: block; width: 100%; height: 11rem; border-radius: 4px; background: #000; }
audio { display: block; width: 100%; height: 2.5rem; margin-top: .6rem; }
meter { width: 8rem; height: .8rem; vertical-align: middle; }
"""


def page(result: EvalResult, summaries: Sequence[Summary]) -> str:
    """Give the page as text.

    Args:
        result: what was measured.
        summaries: `codec.quality.report.summarize(result.rows)`.

    Raises:
        AudioError: an example holds samples that are not numbers.
    """
    title = escape(f"{result.model}: evaluation")
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        f"<header><h1>{title}</h1>{_about(result)}</header><main>",
        "<h2>Means</h2>",
        _means_table(summaries, "Means"),
        "<p>↑ more is better, ↓ less is better. Small: where the mean lies with 95 % probability (bootstrap). "
        "Every file is in scores.csv.</p>",
    ]
    for name, rows in result.grouped().items():
        title = escape(f"{name}, {len({row.file for row in rows})} files")
        parts += [f"<h2>{title}</h2>", _means_table(summarize(rows), title)]
    if result.use:
        parts += ["<h2>Codebooks</h2>", _use_table(result.use)]
    if result.examples:
        parts += [
            "<h2>Listen and look</h2>",
            *example_sections(result.examples),
        ]
    return "\n".join([*parts, "</main></body></html>", ""])


def _about(result: EvalResult) -> str:
    n_files = len({row.file for row in result.rows})
    seconds = sum({row.file: row.seconds for row in result.rows}.values())
    lines = [
        f"Weights <code>{escape(result.weights_hash)}</code>, {escape(result.date)}.",
        f"Data: {escape(result.data)}, {n_files} files, {seconds / 60:.1f} minutes; {escape(result.condition)}.",
    ]
    if result.machine:
        lines.append(f"Real-time factors (RTF) taken on {escape(result.machine)}.")
    if result.command:
        lines.append(f"Repeat with <code>{escape(result.command)}</code>.")
    return "".join(f"<p>{line}</p>" for line in lines)


def _means_table(summaries: Sequence[Summary], label: str) -> str:
    names = tuple(summaries[0].means) if summaries else QUALITIES
    heads = [("Codebooks", ""), ("Bitrate", "kbit/s"), *map(heading, names)]
    heads += [("RTF encode", "time / audio, ↓"), ("RTF decode", "time / audio, ↓")]
    columns = "".join(f'<th scope="col">{head}<span class="unit">{unit}</span></th>' for head, unit in heads)
    rows = []
    for summary in summaries:
        cells = "".join(mean_cell(name, summary.means[name]) for name in names)
        rows.append(
            f'<tr><th scope="row">{summary.codebooks}</th><td>{number(summary.bitrate / 1000, 2)}</td>{cells}'
            f"<td>{number(summary.rtf_encode, 4)}</td><td>{number(summary.rtf_decode, 4)}</td></tr>"
        )
    return f"{scrolling(label)}<table><thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def heading(name: str) -> tuple[str, str]:
    """Give a score's heading, and its unit with an arrow that shows where better is."""
    title, unit, _, more_is_better = HEADINGS[name]
    return title, f"{unit}, {'↑' if more_is_better else '↓'}"


def mean_cell(name: str, mean: Mean) -> str:
    """Give a cell of a table: the mean, small under it its interval."""
    return f'<td>{number(mean.value, HEADINGS[name][2])}<span class="interval">{interval(name, mean)}</span></td>'


def _use_table(use: Sequence[CodebookUse]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{i}</th><td><meter value="{one.usage:.4f}" aria-hidden="true"></meter> '
        f"{one.usage * 100:.1f} %</td><td>{one.perplexity:.0f}</td></tr>"
        for i, one in enumerate(use, start=1)
    )
    columns = "".join(f'<th scope="col">{name}</th>' for name in ("Codebook", "Entries used", "Perplexity"))
    head = f"<thead><tr>{columns}</tr></thead>"
    return f"{scrolling('Codebooks')}<table class=narrow>{head}<tbody>{rows}</tbody></table></div>"


def scrolling(label: str) -> str:
    """Open a box that the keyboard can reach and scroll."""
    return f'<div class="wide" role="region" aria-label="{label}" tabindex="0">'


def example_sections(examples: Sequence[Example]) -> list[str]:
    """Give files to be seen and heard, the first one opened, with a line that says how to read the pictures.

    Raises:
        AudioError: samples that are not numbers.
    """
    note = (
        "<p>Time runs to the right, frequency upwards on the mel scale, brighter is louder (70 dB); the pictures "
        "of one file share one scale.</p>"
    )
    return [note, *(_section(example, is_open=i == 0) for i, example in enumerate(examples))]


def _section(example: Example, *, is_open: bool) -> str:
    """One file: original and decoded versions side by side."""
    check_samples(example.audio, example.file)
    top_db = float(loudness_db(example.audio, example.sample_rate).max())
    versions = [("original", example.audio), *((one.label, one.audio) for one in example.decoded)]
    figures = "".join(_figure(example, label, audio, top_db) for label, audio in versions)
    summary = f"<summary><h3>{escape(example.file)}</h3></summary>"
    return f'<details{" open" if is_open else ""}>{summary}<div class="versions">{figures}</div></details>'


def _figure(example: Example, label: str, audio: Floats, top_db: float) -> str:
    """One version: caption, picture and player."""
    check_samples(audio, f"{example.file}, {label}")
    shown = _data_uri("image/png", picture(audio, example.sample_rate, top_db=top_db))
    heard = _data_uri("audio/flac", flac_bytes(np.atleast_2d(audio), example.sample_rate))
    name = escape(f"{example.file}, {label}")
    seconds = f"{len(audio) / example.sample_rate:.1f} s, 0 to {example.sample_rate / 2000:g} kHz"
    return (
        f"<figure><figcaption><b>{escape(label)}</b>{seconds}</figcaption>"
        f'<img alt="Spectrogram of {name}" src="{shown}">'
        f'<audio controls preload="metadata" aria-label="{name}" src="{heard}"></audio></figure>'
    )


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
