"""`codec verify`: prove on this machine that a model, a file or a folder of tokens gives what was promised."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.errors import CorpusError
from codec.hub import DEFAULT

if TYPE_CHECKING:
    from codec.verify import Report

STYLES = {"pass": "green", "miss": "bold red", "none": "yellow", "info": "dim"}


def verify(
    subject: Annotated[
        str,
        typer.Argument(metavar="MODEL|FILE.codes|DIR", help="A model's name or folder, a file, or a folder of tokens."),
    ] = DEFAULT,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Where the model of the file or tokens lies.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Check what was promised on this machine. Golden vectors, equal codes for any chunks, batch, restart; engines."""
    is_file = Path(subject).is_file() or subject.endswith(".codes")
    is_tokens = (Path(subject) / "index.json").is_file()
    if model is not None and not is_file and not is_tokens:
        raise typer.BadParameter(f"--model goes with a .codes file or a folder of tokens, and {subject} is none")
    from codec.corpus.check import verify_tokens  # numpy and the engines: not for --help
    from codec.verify import verify_codes_file, verify_model

    if not (is_file or Path(subject).exists()) and ({"/", "\\"} & set(subject)) and "://" not in subject:
        raise CorpusError(f"{subject}: not there; name a model, a .codes file or a folder that codec tokenize made")
    if is_tokens:
        report = verify_tokens(Path(subject), model=model)
    else:
        report = verify_codes_file(Path(subject), model=model) if is_file else verify_model(subject)
    if as_json:
        rows = [vars(check) for check in report.checks]
        typer.echo(json.dumps({"subject": report.subject, "passed": report.passed, "checks": rows}))
    else:
        print_table(report)
    raise typer.Exit(0 if report.passed else 1)


def print_table(report: Report) -> None:
    """The checks as a table, and a last line that counts the misses."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"codec verify {report.subject}", title_justify="left")
    for heading in ("check", "result", "measured", "bar"):
        table.add_column(heading, overflow="fold")
    for check in report.checks:
        result = Text(check.result, style=STYLES[check.result])
        table.add_row(Text(check.name), result, Text(check.measured), Text(check.bar))
    # A pipe has no width; rich would take 80 columns and fold the words.
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    typer.echo(f"{len(report.checks)} checks, missed: {', '.join(check.name for check in report.misses) or 'none'}")
