"""`codec encode`: audio to .codes files."""

from __future__ import annotations

from typing import Annotated

import typer

from codec.cli.batch import Job, Outcome, Progress, plan, run_jobs, speed_text, split
from codec.cli.options import (
    ChannelsChoice,
    DeviceOption,
    EngineChoice,
    EngineOption,
    ModeChoice,
    ModelOption,
    OverwriteOption,
    QuietOption,
    parse_bitrate,
)
from codec.containers import AUDIO_SUFFIXES
from codec.errors import CodesError
from codec.hub import DEFAULT


def encode(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Audio files, folders, patterns, or - for stdin. The last of several is the target: a .codes file, a "
            "folder, or - for stdout.",
        ),
    ],
    model: ModelOption = DEFAULT,
    bitrate: Annotated[str | None, typer.Option(help="Most bits a second of a channel: 2000 or 2k.")] = None,
    variable: Annotated[
        bool, typer.Option("--variable", help="The bitrate on average: fewer codebooks in pauses, more in loud speech.")
    ] = False,
    codebooks: Annotated[int | None, typer.Option(help="Codebooks to use, instead of a bitrate.")] = None,
    channels: Annotated[
        ChannelsChoice | None,
        typer.Option(help="mix: to mono. keep: side by side. Without: mix, but keep for a model of stereo."),
    ] = None,
    mode: Annotated[
        ModeChoice, typer.Option(help="block: throughput. frame: as a live stream would.")
    ] = ModeChoice.BLOCK,
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Pack the codes with the model's prior: smaller files, the same codes.")
    ] = False,
    engine: EngineOption = EngineChoice.AUTO,
    device: DeviceOption = "cpu",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Encode speech to .codes files."""
    bits_per_second = parse_bitrate(bitrate)
    jobs = plan(*split(paths), suffixes=AUDIO_SUFFIXES, new_suffix=".codes")
    from codec.api import load  # numpy and the audio libraries: not for --help
    from codec.codesfile.prior import read_prior
    from codec.hub import find_model
    from codec.rate import choose_rate
    from codec.transcode import EncodeOptions, encode_file

    loaded = load(model, engine=engine.value, device=device)
    try:
        choose_rate(loaded.info, codebooks=codebooks, bitrate=bits_per_second, variable=variable)
    except CodesError as error:
        raise typer.BadParameter(str(error)) from None
    prior = read_prior(find_model(model)) if entropy else None
    options = EncodeOptions(
        codebooks=codebooks,
        bitrate=bits_per_second,
        variable=variable,
        mode=mode.value,
        channels=None if channels is None else channels.value,
        overwrite=overwrite,
        prior=prior,
    )

    def work(job: Job, progress: Progress) -> Outcome:
        done = encode_file(loaded, job.open_source(), job.open_target(), options, progress)
        speed = done.duration / max(done.elapsed, 1e-9)
        size = f", {done.size_bytes} bytes" if done.size_bytes else ""
        target = "<stdout>" if job.target is None else job.target
        return Outcome(
            f"{job.name} -> {target}: {done.duration:.2f} s, {done.bitrate / 1000:.4g} kbit/s{size}, "
            f"{speed_text(speed)}"
        )

    raise typer.Exit(run_jobs(jobs, work, seconds_of=_seconds, quiet=quiet))


def _seconds(job: Job) -> float:
    if job.source is None:
        return 0.0
    import soundfile

    try:
        return float(soundfile.info(str(job.source)).duration)
    except (RuntimeError, OSError):
        return 0.0
