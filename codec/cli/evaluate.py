"""`codec eval`: what a model scores on audio files."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli.batch import find, print_failures
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
from codec.containers import AUDIO_SUFFIXES
from codec.errors import CodecError, CodesError, ConfigError
from codec.files import describe_os_error

if TYPE_CHECKING:
    from codec.quality.noise import NoiseOptions


def evaluate(
    model: Annotated[str, typer.Argument(help="An embedded model's name, or a model folder.")],
    data: Annotated[str, typer.Argument(help="Folder of audio files, glob pattern, or one file.")],
    out: Annotated[Path | None, typer.Option(help="Folder for scores.csv, report.json and report.html.")] = None,
    codebooks: Annotated[str | None, typer.Option(help="How many to decode with, such as 2,4,8.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Such as pesq,stoi,dnsmos,dwer; all: every one whose packages are installed.")
    ] = None,
    snr: SnrOption = None,
    noise: NoiseOption = "",
    reference: ReferenceOption = "noisy",
    manifest: ManifestOption = None,
    by: ByOption = "",
    examples: Annotated[int, typer.Option(min=0, help="Files to hear and see in report.html.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many files, spread evenly.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that score; leave one core to the codec.")] = 1,
    engine: EngineOption = EngineChoice.AUTO,
    device: DeviceOption = "cpu",
    quiet: QuietOption = False,
) -> None:
    """Score a model on audio files. PESQ-WB, STOI, ESTOI, SI-SDR, mel distance, speed, use of the codebooks."""
    counts = parse_codebooks(codebooks)
    files = find_files(data)
    judges = choose_metrics(metrics)
    from codec.api import load
    from codec.quality import evaluate as evaluation  # numpy and the metrics: not for --help
    from codec.rate import choose_codebooks

    if limit is not None:
        names = list(files)
        files = {names[i]: files[names[i]] for i in evaluation.spread(len(names), limit)}
    groups, mixed = find_groups(manifest, by, files), find_noise(snr, noise, reference)
    loaded = load(model, engine=engine.value, device=device)
    try:
        for count in counts:
            choose_codebooks(loaded.info, codebooks=count)
    except CodesError as error:
        raise typer.BadParameter(str(error)) from None
    if out is not None:
        make_folder(out)  # now, not after an hour's work
    about = {"data": data, "command": shlex.join(["codec", *sys.argv[1:]])}
    with show_progress(len(files), quiet=quiet) as progress:
        result = evaluation.evaluate(
            loaded,
            files,
            codebooks=counts,
            metrics=judges,
            groups=groups,
            noise=mixed,
            examples=examples,
            jobs=jobs,
            progress=progress,
            about=about,
        )
    from rich.console import Console

    from codec.quality import report

    # A pipe has no width; rich would take 80 columns and fold the numbers.
    console = Console(width=None if sys.stdout.isatty() else 240)
    console.print(report.table(result))
    for group in result.grouped():
        console.print(report.table(result, group=group))
    if out is not None:
        for path in report.write_report(out, result):
            typer.echo(str(path), err=True)
    if result.skipped:
        print_failures(result.skipped, max(2, len(files)))
        raise typer.Exit(1)


def parse_codebooks(text: str | None) -> tuple[int, ...]:
    """`2,4,8` to numbers.

    >>> parse_codebooks("2,4"), parse_codebooks(None)
    ((2, 4), ())

    Raises:
        typer.BadParameter: not numbers.
    """
    try:
        return tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        raise typer.BadParameter(f"--codebooks {text}: not numbers; write 2,4,8") from None


def choose_metrics(text: str | None) -> tuple[str, ...]:
    """`pesq,dwer` to names; `all` to all whose packages are installed, with a line for each of the others.

    Raises:
        typer.BadParameter: a name that is unknown.
        MissingExtraError: a metric asked for by name, and its packages are not installed.
    """
    from codec.quality.judges import DEFAULT, check_installed, installed

    if text == "all":
        names, missing = installed()
        for error in missing:
            typer.echo(f"codec: left out: {error}", err=True)
        return names
    names = DEFAULT if text is None else tuple(name.strip() for name in text.split(","))
    try:
        check_installed(names)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    return names


def find_files(data: str) -> dict[str, Path]:
    """Audio files by the name that a report gives them: their place in the folder.

    Raises:
        typer.BadParameter: none there.
    """
    found = [(path, base) for path, base in find(data, AUDIO_SUFFIXES) if path is not None]
    files = {str(path if base is None else path.relative_to(base)): path for path, base in found}
    if not files or not data:
        raise typer.BadParameter(f"{data or 'an empty name'}: no file ending in {', '.join(AUDIO_SUFFIXES)} there")
    return files


def find_groups(manifest: Path | None, by: str, files: dict[str, Path]) -> dict[str, str] | None:
    """`--manifest` and `--by` to each file's group by its name; None without them.

    Raises:
        typer.BadParameter: one without the other, or no such column.
        CodecError: the manifest cannot be read.
    """
    if (manifest is None) != (not by):
        raise typer.BadParameter("--manifest and --by go together: --manifest files.csv --by language")
    if manifest is None:
        return None
    from codec.quality.noise import read_groups

    try:
        return read_groups(manifest, by, files)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def find_noise(snr: float | None, noise: str, reference: str) -> NoiseOptions | None:
    """`--snr`, `--noise` and `--reference` to what is mixed in; None without them.

    Raises:
        typer.BadParameter: one without the other, no audio there, or an unknown reference.
    """
    if (snr is None) != (not noise):
        raise typer.BadParameter("--snr and --noise go together: --snr 10 --noise noises/")
    if snr is None:
        return None
    from codec.quality.noise import NoiseOptions

    found = tuple(path for path, _ in find(noise, AUDIO_SUFFIXES) if path is not None)
    try:
        return NoiseOptions(found, snr, reference)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def make_folder(out: Path) -> None:
    """Make a folder. Raises: CodecError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise CodecError(f"{out}: cannot be made a folder: {describe_os_error(failure)}") from failure


@contextlib.contextmanager
def show_progress(n_files: int, *, quiet: bool) -> Iterator[Callable[[str], None] | None]:
    """A bar with ETA on a terminal; gives what to call after each file."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=n_files)
        yield lambda name: bar.update(task, advance=1, description=Path(name).name)
