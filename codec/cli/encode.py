"""`codec encode`: audio to .codes files."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from codec.cli.batch import AUDIO_SUFFIXES, Job, Outcome, Progress, plan, run_jobs
from codec.cli.options import DeviceOption, ModelOption, OverwriteOption, QuietOption, parse_bitrate
from codec.hub import DEFAULT


def encode(
    source: Annotated[str, typer.Argument(help="Audio file, folder, glob pattern, or - for stdin.")],
    target: Annotated[Optional[str], typer.Argument(help=".codes file, folder, or - for stdout.")] = None,  # noqa: UP045
    model: ModelOption = DEFAULT,
    bitrate: Annotated[Optional[str], typer.Option(help="Most bits a second of a channel: 2000 or 2k.")] = None,  # noqa: UP045
    codebooks: Annotated[Optional[int], typer.Option(help="Codebooks to use, instead of a bitrate.")] = None,  # noqa: UP045
    channels: Annotated[str, typer.Option(help="mix: to mono. keep: each channel side by side.")] = "mix",
    mode: Annotated[str, typer.Option(help="block: throughput. frame: as a live stream would.")] = "block",
    device: DeviceOption = "cpu",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Encode speech to .codes files."""
    jobs = plan([source], target, suffixes=AUDIO_SUFFIXES, new_suffix=".codes")
    from codec.api import load  # numpy and the audio libraries: not for --help
    from codec.transcode import EncodeOptions, encode_file

    options = EncodeOptions(codebooks, parse_bitrate(bitrate), mode, channels, overwrite)
    loaded = load(model, device=device)

    def work(job: Job, progress: Progress) -> Outcome:
        done = encode_file(loaded, job.open_source(), job.open_target(), options, progress)
        speed = done.duration / max(done.elapsed, 1e-9)
        size = f", {done.size_bytes} bytes" if done.size_bytes else ""
        target = "<stdout>" if job.target is None else job.target
        return Outcome(
            f"{job.name} -> {target}: {done.duration:.2f} s, {done.bitrate / 1000:g} kbit/s{size}, "
            f"{speed:.0f} times faster than real time"
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
