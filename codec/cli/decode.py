"""`codec decode`: .codes files to audio."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from codec.cli.batch import Job, Outcome, Progress, plan, run_jobs, speed_text, split
from codec.cli.options import DeviceOption, EngineChoice, EngineOption, OverwriteOption, QuietOption


def decode(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help=".codes files, folders, patterns, or - for stdin. The last of several is the target: a .wav, .flac, "
            ".ogg, .opus or .mp3 file, a folder, or - for stdout.",
        ),
    ],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the file's model lies.")] = None,
    sample_rate: Annotated[int | None, typer.Option(help="Hz; the model's when left out.")] = None,
    start: Annotated[float, typer.Option(help="Decode from this second on.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Decode up to this second.")] = None,
    engine: EngineOption = EngineChoice.AUTO,
    device: DeviceOption = "cpu",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Decode .codes files to audio. Of a damaged file the good part, with exit code 3."""
    jobs = plan(*split(paths), suffixes=(".codes",), new_suffix=".wav")
    from codec.hub import find_model
    from codec.transcode import DecodeOptions, decode_file, open_named_model  # not for --help

    priors = () if model is None else (find_model(model),)
    options = DecodeOptions(sample_rate, start, end, overwrite, priors)
    opened = functools.cache(
        lambda name, weights: open_named_model(name, weights, model=model, engine=engine.value, device=device)
    )

    def work(job: Job, progress: Progress) -> Outcome:
        done = decode_file(
            lambda header: opened(header.model, header.weights_hash),
            job.open_source(),
            job.open_target(),
            options,
            progress,
        )
        for warning in done.warnings:
            typer.echo(f"warning: {warning}", err=True)
        speed = done.duration / max(done.elapsed, 1e-9)
        target = "<stdout>" if job.target is None else job.target
        line = f"{job.name} -> {target}: {done.duration:.2f} s, {speed_text(speed)}"
        return Outcome(line, partial=bool(done.warnings))

    raise typer.Exit(run_jobs(jobs, work, seconds_of=lambda job: 0.0, quiet=quiet))
