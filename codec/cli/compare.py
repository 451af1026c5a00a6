"""`codec compare`: our models and other codecs on the same recordings, quality against bitrate."""

from __future__ import annotations

import datetime as dt
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli.batch import print_failures
from codec.cli.evaluate import (
    choose_metrics,
    find_files,
    find_groups,
    find_noise,
    make_folder,
    parse_codebooks,
    show_progress,
)
from codec.cli.options import (
    ByOption,
    DeviceOption,
    EngineChoice,
    EngineOption,
    ManifestOption,
    NoiseOption,
    QuietOption,
    ReferenceOption,
    SnrOption,
)
from codec.errors import CodesError, ConfigError

if TYPE_CHECKING:
    from codec.quality.compare import Comparison
    from codec.quality.systems import System

WIDE = 240  # columns of a table in a pipe, which has no width; rich would fold the numbers


def compare(
    models: Annotated[list[str], typer.Argument(help="Embedded models' names, or model folders.")],
    data: Annotated[str, typer.Option(help="Folder of audio files, glob pattern, or one file.")],
    peers: Annotated[str, typer.Option(help="Such as opus,codec2; also opus-tools, opus-package.")] = "",
    up_to: Annotated[float, typer.Option(help="Leave out what peers and Lyra do above so many kbit/s.")] = math.inf,
    lyra: Annotated[Path | None, typer.Option(help="Folder with Lyra v2's three .tflite files.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.csv, .json, .md, .html, curve.svg.")] = None,
    metrics: Annotated[str | None, typer.Option(help="As for codec eval; all: every one that is installed.")] = None,
    codebooks: Annotated[str | None, typer.Option(help="How many each model decodes with, such as 2,4,8.")] = None,
    snr: SnrOption = None,
    noise: NoiseOption = "",
    reference: ReferenceOption = "noisy",
    manifest: ManifestOption = None,
    by: ByOption = "",
    examples: Annotated[int, typer.Option(min=0, help="Files to hear and see in comparison.html.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many files, spread evenly.")] = None,
    engine: EngineOption = EngineChoice.AUTO,
    device: DeviceOption = "cpu",
    quiet: QuietOption = False,
) -> None:
    """Race models against each other, Opus, Codec2 and Lyra. True bitrate, quality with intervals, speed, latency."""
    files = find_files(data)
    judges = choose_metrics(metrics)
    from codec.quality import compare as comparison
    from codec.quality.evaluate import machine_name, spread

    if limit is not None:
        names = list(files)
        files = {names[i]: files[names[i]] for i in spread(len(names), limit)}
    groups, mixed = find_groups(manifest, by, files), find_noise(snr, noise, reference)
    systems = _open_systems(models, parse_codebooks(codebooks), (peers, lyra, up_to), engine.value, device)
    if out is not None:
        make_folder(out)  # now, not after an hour's work
    with show_progress(len(files), quiet=quiet) as progress:
        result = comparison.compare(
            systems, files, metrics=judges, groups=groups, noise=mixed, examples=examples, progress=progress
        )
    _print(result)
    if out is not None:
        command = shlex.join(["codec", *sys.argv[1:]])
        about = {"data": data, "command": command, "machine": machine_name(), "date": dt.date.today().isoformat()}
        from codec.quality.comparereport import write_comparison

        for path in write_comparison(out, result, about):
            typer.echo(str(path), err=True)
    if result.skipped:
        print_failures(result.skipped, max(2, len(files)))
        raise typer.Exit(1)


def _open_systems(
    models: list[str], counts: tuple[int, ...], others: tuple[str, Path | None, float], engine: str, device: str
) -> list[System]:
    from codec.api import load
    from codec.quality.compare import gmacs_of, model_system
    from codec.quality.lyra import lyra as open_lyra
    from codec.quality.peers import open_peers

    peers, lyra, up_to = others
    try:
        systems = [
            model_system(load(model, engine=engine, device=device), counts, gmacs=gmacs_of(model)) for model in models
        ]
        systems += open_peers([name.strip() for name in peers.split(",")] if peers else [], up_to=up_to)
        systems += [] if lyra is None else [open_lyra(lyra, up_to=up_to)]
    except (CodesError, ConfigError) as error:
        raise typer.BadParameter(str(error)) from None
    return systems


def _print(result: Comparison) -> None:
    from rich.console import Console

    from codec.quality.comparereport import table

    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(table(result))
    for group in sorted({row.group for row in result.rows} - {""}):
        console.print(table(result, group=group))
