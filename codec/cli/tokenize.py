"""`codec tokenize`: a corpus of any size to shards of tokens."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from codec.cli.options import DeviceOption, ModeChoice, ModelOption, QuietOption, parse_bitrate
from codec.errors import CorpusError
from codec.hub import DEFAULT

LINE_EVERY = 10.0  # seconds between two lines where there is no terminal


class OutputChoice(StrEnum):
    """What the shards are."""

    PARQUET = "parquet"
    WEBDATASET = "webdataset"
    CODES = "codes"
    NPY = "npy"


class EngineChoice(StrEnum):
    """What runs the model."""

    AUTO = "auto"
    ONNX = "onnx"
    TORCH = "torch"
    RAY = "ray"


def tokenize(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, glob, .jsonl, .csv, .tsv, wav.scp, Lhotse cuts, .tar, .parquet, or an audio file."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where shards and index.json go.")],
    model: ModelOption = DEFAULT,
    bitrate: Annotated[str | None, typer.Option(help="Most bits a second: 2000 or 2k.")] = None,
    codebooks: Annotated[int | None, typer.Option(help="Codebooks to use, instead of a bitrate.")] = None,
    mode: Annotated[
        ModeChoice, typer.Option(help="block: throughput. frame: as a live stream would.")
    ] = ModeChoice.BLOCK,
    output: Annotated[OutputChoice, typer.Option("--format", "-f", help="What the shards are.")] = OutputChoice.PARQUET,
    layout: Annotated[
        str,
        typer.Option(
            metavar="NAME[:OPTION=N]",
            help="How codes are written: parallel, frame, codebook, delay, coarse, semantic, multirate, depth.",
        ),
    ] = "parallel",
    shard_hours: Annotated[float, typer.Option(help="Hours of audio in a shard.")] = 1.0,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Leave out files with the same bytes as one before.")
    ] = False,
    root: Annotated[str | None, typer.Option(help="Folder that a manifest's relative paths start at.")] = None,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Only this part of the shards, 0/N to N-1/N: one a machine.")
    ] = "0/1",
    workers: Annotated[
        int | None, typer.Option(help="Processes; as many as there are cores, one on an accelerator.")
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Utterances in one padded batch, for accelerators; a few codes differ from rows alone.")
    ] = 1,
    engine: Annotated[EngineChoice, typer.Option(help="ray: workers on a Ray cluster.")] = EngineChoice.AUTO,
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster; one on this machine if left out.")] = None,
    device: DeviceOption = "cpu",
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Write the plan, and end.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 where an utterance failed; all others are made.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Tokenize a corpus. Run it again on the same folder and it goes on where it stopped."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or int(match[1]) >= int(match[2]):
        raise typer.BadParameter(f"--shard {shard}: write 0/4, 1/4, 2/4 or 3/4 for four machines")
    if address is not None and engine is not EngineChoice.RAY:
        raise typer.BadParameter("--address goes with --engine ray")
    rate = parse_bitrate(bitrate)
    from codec.corpus.run import Options  # numpy and the audio libraries: not for --help
    from codec.corpus.run import tokenize as run

    options = Options(
        model, codebooks, rate, mode.value, output.value, shard_hours, dedupe, root,
        (int(match[1]), int(match[2])), workers, engine.value, device, address, layout, batch,
    )  # fmt: skip
    with open_meter(quiet=quiet) as meter:
        summary = run(
            source, out, options, say=meter.say, begin=meter.begin, progress=meter.advance, plan_only=plan_only
        )
    if not quiet:
        parts = [f"{summary.n_done} of {summary.n_shards} shards", f"{summary.n_rows} utterances"]
        parts.append(f"{summary.seconds / 3600:.3f} h")
        parts += [f"{summary.n_failures} failed (failures.jsonl)"] if summary.n_failures else []
        parts += [f"{summary.n_duplicates} duplicates left out"] if summary.n_duplicates else []
        if summary.agreement is not None:
            parts.append(f"batches of {batch}: {summary.agreement:.3%} of compared codes are those of rows run alone")
        typer.echo(f"{out}: {', '.join(parts)}{meter.final()}", err=True)
    if strict and summary.n_failures:
        raise CorpusError(f"{out}: {summary.n_failures} failed; failures.jsonl there has the reasons")


class Meter:
    """Counts seconds of audio; says the rate and how long the rest will take."""

    def __init__(self, show: Callable[[str], None], refresh: Callable[[float, float, str], None], every: float) -> None:
        self.say, self._refresh, self._every = show, refresh, every
        self._total = self._before = self._done = 0.0
        self._start = self._last = time.monotonic()

    def begin(self, total: float, done: float) -> None:
        """The work: seconds of audio, and how many of them are done already."""
        self._total, self._before = total, done
        self._start = self._last = time.monotonic()

    def advance(self, seconds: float) -> None:
        """So much more is done."""
        self._done += seconds
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._refresh(self._before + self._done, self._total, self.describe())

    def describe(self) -> str:
        """`12.3 of 1000 h, 22.1 hours of audio per hour, 44:42:00 to go`."""
        done, rate = self._before + self._done, self._done / max(1e-9, time.monotonic() - self._start)
        left = max(0.0, self._total - done) / rate if rate > 0 else 0.0
        minutes, seconds = divmod(round(left), 60)
        to_go = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        return f"{done / 3600:.2f} of {self._total / 3600:.2f} h, {rate:.1f} hours of audio per hour, {to_go} to go"

    def final(self) -> str:
        """The rate of the whole run, where there was work."""
        elapsed = time.monotonic() - self._start
        return f"; {self._done / elapsed:.1f} hours of audio per hour" if self._done else ""


@contextlib.contextmanager
def open_meter(*, quiet: bool) -> Iterator[Meter]:
    """A meter that shows itself on stderr: a bar on a terminal, else a line now and then."""
    if quiet:
        yield Meter(lambda line: None, lambda done, total, text: None, LINE_EVERY)
        return
    if not sys.stderr.isatty():
        yield Meter(
            lambda line: typer.echo(line, err=True), lambda done, total, text: typer.echo(text, err=True), LINE_EVERY
        )
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("", total=None)

        def refresh(done: float, total: float, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield Meter(lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True), refresh, 0.5)
