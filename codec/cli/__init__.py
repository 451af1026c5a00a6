"""The command line: `codec`, one file per command."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn, cast

import typer

from codec.cli import (
    bench,
    compare,
    convert,
    decode,
    download,
    encode,
    export,
    info,
    models,
    push,
    tokenize,
    train,
    verify,
)
from codec.cli import evaluate as eval_command
from codec.ending import one_line, stop

# Click's base of all usage errors; newer versions of typer bring their own copy of click, so it has no steady address.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="codec",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from codec import __version__

        typer.echo(f"codec {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Neural audio codec and speech tokenizer: speech in, a few hundred integers a second out, speech back."""


app.command("encode")(encode.encode)
app.command("decode")(decode.decode)
app.command("info")(info.info)
app.command("models")(models.models)
app.command("download")(download.download)
app.command("push")(push.push)
app.command("tokenize")(tokenize.tokenize)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("convert")(convert.convert)
app.command("eval")(eval_command.evaluate)
app.command("compare")(compare.compare)
app.command("verify")(verify.verify)
app.command("bench")(bench.bench)


def main() -> None:
    """Run the command; an error is one line on stderr.

    Exit codes: 0; 1 for an error; 2 for wrong usage; 3 where a damaged file was decoded in part; 130 after Ctrl-C; 143
    and 129 where the system or the closed terminal ended it.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    with one_line():
        try:
            code = app(prog_name="codec", standalone_mode=False)
        except USAGE_ERROR as error:
            _stop_usage(cast(typer.BadParameter, error))
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    sys.exit(code or 0)


def _end(number: int, frame: FrameType | None) -> None:
    """End as after an error, so that files that are half written are removed."""
    signal.signal(number, signal.SIG_IGN)
    stop(f"ended by {signal.Signals(number).name}; nothing is half written", 128 + number)


def _stop_usage(error: typer.BadParameter) -> NoReturn:
    """One line, and where to read more. A bare `codec` carries the whole help as its message."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    command = error.ctx.command_path if error.ctx is not None else "codec"
    stop(f"{' '.join(error.format_message().split())} (see {command} --help)", error.exit_code)
