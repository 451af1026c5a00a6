"""Many files with one command: what to read, where to write, progress, and a table of what failed."""

from __future__ import annotations

import glob
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TextIO

import typer

from codec.errors import CodecError
from codec.files import describe_os_error

PIPE = "-"
LONG_SECONDS = 30.0  # work on more audio than this shows a progress bar

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Job:
    """One file: None is stdin or stdout."""

    source: Path | None
    target: Path | None
    makes_folder: bool = False  # the target lies in a folder that the user named as such; it is made if missing

    @property
    def name(self) -> str:
        """What messages call the source."""
        return "<stdin>" if self.source is None else str(self.source)

    def open_source(self) -> Path | BinaryIO:
        """The path, or stdin."""
        return _open("stdin", sys.stdin) if self.source is None else self.source

    def open_target(self) -> Path | BinaryIO:
        """The path, or stdout."""
        return _open("stdout", sys.stdout) if self.target is None else self.target


def _open(name: str, stream: TextIO | None) -> BinaryIO:
    """The bytes of a standard stream, which a service may have been started without."""
    if stream is None:
        raise CodecError(f"<{name}>: is closed; give a file instead of {PIPE}")
    return stream.buffer


def speed_text(speed: float) -> str:
    """A speed for a message: with a decimal where a whole number would say too little, or 0.

    >>> speed_text(92.3), speed_text(0.42)
    ('92 times faster than real time', '0.4 times real time')
    """
    return f"{speed:.0f} times faster than real time" if speed >= 10 else f"{speed:.1f} times real time"


def split(paths: Sequence[str]) -> tuple[list[str], str | None]:
    """Sources and target of a command line, as `cp` has them: of several names the last is the target.

    >>> split(["a.wav", "b.wav", "codes/"]), split(["a.wav"])
    ((['a.wav', 'b.wav'], 'codes/'), (['a.wav'], None))
    """
    return (list(paths[:-1]), paths[-1]) if len(paths) > 1 else (list(paths), None)


def plan(sources: Sequence[str], target: str | None, *, suffixes: Sequence[str], new_suffix: str) -> list[Job]:
    """Which file becomes which.

    Args:
        sources: files, folders (searched for `suffixes`), glob patterns, or `-`.
        target: a file, a folder, `-`, or None for beside the source.
        suffixes: of files that a folder is searched for; a target is not called so.
        new_suffix: of the targets. Sources that differ in nothing but their suffix keep it: a.flac and a.wav become
            a.flac.codes and a.wav.codes.

    Raises:
        typer.BadParameter: two sources for one target, a source that would be its own target, a target that is named as
            a source is, or no source.
    """
    if "" in sources or target == "":
        raise typer.BadParameter("an empty name; give a file, a folder or -")
    found = [(path, base) for source in sources for path, base in find(source, suffixes)]
    if not found:
        raise typer.BadParameter(f"{' '.join(sources)}: no file ending in {', '.join(suffixes)} there")
    many = len(found) > 1 or any(_is_many(source) for source in sources)
    to_folder = target is not None and target != PIPE and (many or target.endswith("/") or Path(target).is_dir())
    jobs = [Job(path, _target(path, base, target, new_suffix, to_folder), to_folder) for path, base in found]
    jobs = _kept_apart(jobs, new_suffix) if to_folder or target is None else jobs
    _check_targets(jobs)
    _check_target(target, len(found) if many else 0, suffixes, new_suffix)
    return jobs


def _is_many(source: str) -> bool:
    """Whether a source can stand for several files: a folder, or a glob pattern."""
    return source != PIPE and (Path(source).is_dir() or (not Path(source).exists() and glob.has_magic(source)))


def _check_target(target: str | None, n_many: int, suffixes: Sequence[str], new_suffix: str) -> None:
    """Refuse a file for many files, and a recording that a shell's `*.wav` put at the target's place."""
    if target is None or Path(target).is_dir():
        return
    suffix = Path(target).suffix.lower()
    if n_many and (target == PIPE or Path(target).exists() or suffix in (*suffixes, new_suffix)):
        raise typer.BadParameter(f"{target}: {n_many} files need a folder as target; name it last")
    if suffix in suffixes:
        raise typer.BadParameter(f"{target}: is named like a source; name a {new_suffix} file or a folder as target")


def _kept_apart(jobs: Sequence[Job], suffix: str) -> list[Job]:
    """The jobs, those whose targets would be one file with the source's whole name before the suffix."""
    named = Counter(job.target for job in jobs)
    return [
        replace(job, target=job.target.with_name(job.source.name + suffix))
        if job.source and job.target and named[job.target] > 1
        else job
        for job in jobs
    ]


def _check_targets(jobs: Sequence[Job]) -> None:
    seen: dict[Path, str] = {}
    for job in jobs:
        if job.target is None:
            continue
        place = job.target.resolve()
        if job.source is not None and place == job.source.resolve():
            raise typer.BadParameter(f"{job.name}: is source and target; name another target")
        if place in seen:
            raise typer.BadParameter(f"{seen[place]} and {job.name} would both become {job.target}; rename one")
        seen[place] = job.name


def find(source: str, suffixes: Sequence[str]) -> Iterator[tuple[Path | None, Path | None]]:
    """Paths with the folder that they were found under; None for stdin."""
    path = Path(source)
    if source == PIPE:
        yield None, None
    elif path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in suffixes and file.is_file():
                yield file, path
    elif not path.exists() and glob.has_magic(source):
        for name in sorted(glob.glob(source, recursive=True)):
            if Path(name).is_file():
                yield Path(name), None
    else:
        yield path, None


def _target(path: Path | None, base: Path | None, target: str | None, suffix: str, to_folder: bool) -> Path | None:
    if target == PIPE or (path is None and target is None):
        return None
    if target is not None and not to_folder:
        return Path(target)
    inside = Path("stdin") if path is None else path.relative_to(base) if base is not None else Path(path.name)
    if target is None:
        assert path is not None
        return path.with_suffix(suffix)
    return (Path(target) / inside).with_suffix(suffix)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: a line, or an error; `partial` where a damaged file gave a part."""

    line: str
    partial: bool = False


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[[Job, Progress], Outcome],
    *,
    seconds_of: Callable[[Job], float],
    quiet: bool = False,
) -> int:
    """Do all jobs; a bad file does not stop the others.

    Args:
        jobs: from `plan`.
        work: does one job, gives its line.
        seconds_of: how long a job's audio is, for the progress bar; 0 where that is unknown.
        quiet: print errors only.

    Returns:
        The exit code: 0, 1 where a job failed, 3 where a damaged file gave only a part.
    """
    failures: list[tuple[str, str]] = []
    partial = False
    with _progress(jobs, seconds_of) as (advance, say):
        for job in jobs:
            try:
                outcome = _do(job, work, advance(job))
            except CodecError as error:
                failures.append((job.name, str(error)))
                if len(jobs) > 1:
                    say(f"failed: {error}")
                continue
            partial = partial or outcome.partial
            if not quiet:
                say(outcome.line)
    if failures:
        print_failures(failures, len(jobs))
        return 1
    return 3 if partial else 0


def _do(job: Job, work: Callable[[Job, Progress], Outcome], progress: Progress) -> Outcome:
    """One job, with the system's errors as ours. Raises: CodecError; BrokenPipeError where nobody reads on."""
    try:
        if job.makes_folder and job.target is not None:
            job.target.parent.mkdir(parents=True, exist_ok=True)
        return work(job, progress)
    except BrokenPipeError:
        raise
    except OSError as failure:
        raise CodecError(f"{failure.filename or job.name}: {describe_os_error(failure)}") from failure


def print_failures(failures: Sequence[tuple[str, str]], n_jobs: int) -> None:
    """One line for a single job, else a table on stderr: names and reasons."""
    if n_jobs == 1:
        typer.echo(f"codec: {failures[0][1]}", err=True)
        return
    from rich.console import Console  # slow to import, only where a table is shown
    from rich.table import Table

    table = Table(title=f"{len(failures)} of {n_jobs} files failed", title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("why", overflow="fold")
    for name, why in failures:
        table.add_row(name, why.removeprefix(f"{name}: "))
    Console(stderr=True).print(table)


@contextmanager
def _progress(
    jobs: Sequence[Job], seconds_of: Callable[[Job], float]
) -> Iterator[tuple[Callable[[Job], Progress], Callable[[str], None]]]:
    """A bar with ETA on a terminal for much work; lines on stderr in any case."""
    total = sum(seconds_of(job) for job in jobs) if sys.stderr.isatty() else 0.0
    if total < LONG_SECONDS and not (sys.stderr.isatty() and len(jobs) > 4):
        yield (lambda job: lambda seconds: None), (lambda line: typer.echo(line, err=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("", total=total or None)
        done = 0.0

        def advance(job: Job) -> Progress:
            nonlocal done
            begin, done = done, done + seconds_of(job)
            bar.update(task, description=Path(job.name).name, completed=begin)
            return lambda seconds: bar.update(task, completed=begin + seconds)

        yield advance, lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
