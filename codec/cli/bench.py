"""`codec bench`: how fast a model runs on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from codec.hub import DEFAULT

if TYPE_CHECKING:
    from codec.bench import BenchReport
    from codec.timing import Spread


def bench(
    model: Annotated[str, typer.Argument(help="An embedded model's name, or a model folder.")] = DEFAULT,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long to measure, beside loading.")] = 20.0,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be given again.")] = None,
    cold: Annotated[bool, typer.Option(help="Also start the command line, for its time and memory.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Measure a model's speed and memory on this machine. Each engine: offline, one frame, many streams, cold start."""
    # Before torch is imported; a figure per core needs one thread. Set it to another number to measure that.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from codec.bench import bench_model  # numpy and the engines: not for --help

    report = bench_model(model, seconds=seconds, engines=engine or None, cold=cold)
    if as_json:
        typer.echo(json.dumps(as_data(report), indent=1))
    else:
        print_table(report)


def as_data(report: BenchReport) -> dict[str, object]:
    """The report as plain data, with the live streams that follow from its steps."""
    from codec.bench import ROWS

    data = dataclasses.asdict(report)
    for row, engine in zip(data["engines"], report.engines, strict=True):
        row["live_streams"] = {
            "encode": report.live_streams(engine.step_encode),
            "decode": report.live_streams(engine.step_decode),
            f"encode_{ROWS}_rows": report.live_streams(engine.rows_encode, ROWS),
            f"decode_{ROWS}_rows": report.live_streams(engine.rows_decode, ROWS),
        }
    return data


def print_table(report: BenchReport) -> None:
    """One column for each engine: medians, and from quartile to quartile in parentheses."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = f"codec bench {report.model}  ({report.machine}; OMP_NUM_THREADS={report.threads})"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("measured")
    columns = []
    for engine in report.engines:
        table.add_column(Text(engine.engine), justify="right")
        columns.append(cells(report, engine.engine))
    for heading in columns[0]:
        table.add_row(heading, *(column[heading] for column in columns))
    # A pipe has no width; rich would take 80 columns and fold the words.
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    typer.echo("median (first to third quartile); RTF: seconds of work per second of audio")
    for name, reason in report.skipped.items():
        typer.echo(reason if reason.startswith(name) else f"{name}: {reason}")


def cells(report: BenchReport, name: str) -> dict[str, str]:
    """The rows of one engine: heading to text."""
    from codec.bench import COLD_SECONDS, ROWS

    engine = next(found for found in report.engines if found.engine == name)
    frame = f"{report.frame * 1e3:g} ms"
    rows = {}
    for part in ("encode", "decode"):
        rtf: Spread = getattr(engine, f"rtf_{part}")
        rows[f"{part} offline, RTF"] = spread_text(rtf, 4)
        rows[f"{part} offline, times faster than real time"] = f"{1 / rtf.median:.0f}"
    for part in ("encode", "decode"):
        step: Spread = getattr(engine, f"step_{part}")
        many: Spread = getattr(engine, f"rows_{part}")
        rows[f"{part} one frame of {frame}, ms"] = spread_text(step.scaled(1e3), 2)
        rows[f"{part} one frame, 99 of 100 below, ms"] = f"{step.p99 * 1e3:.2f}"
        rows[f"{part} {ROWS} streams, one frame each, ms"] = spread_text(many.scaled(1e3), 2)
        live = f"{report.live_streams(step):.0f}; {report.live_streams(many, ROWS):.0f} in one object"
        rows[f"{part} live streams, one core"] = live
    first, total = engine.cold, engine.cold_total
    rows[f"codec encode, {COLD_SECONDS:g} s file, first byte, s"] = spread_text(first, 2) if first else "-"
    rows["the same, to its end, s"] = spread_text(total, 2) if total else "-"
    rows["the same, most memory, MB"] = f"{engine.memory_bytes / 1e6:.0f}" if engine.memory_bytes else "-"
    return rows


def spread_text(spread: Spread, decimals: int) -> str:
    """Median and quartiles.

    >>> from codec.timing import Spread
    >>> spread_text(Spread(1.0, 0.9, 1.25, 2.0, 9), 2)
    '1.00 (0.90 to 1.25)'
    """
    return f"{spread.median:.{decimals}f} ({spread.low:.{decimals}f} to {spread.high:.{decimals}f})"
