"""The command line: `codec`, one file per command."""

from __future__ import annotations

import sys

import typer

from codec.cli import decode, encode, info, models, train
from codec.cli import evaluate as eval_command
from codec.errors import CodecError

app = typer.Typer(
    name="codec",
    help="Neural audio codec and speech tokenizer: speech in, a few hundred integers a second out, speech back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("encode")(encode.encode)
app.command("decode")(decode.decode)
app.command("info")(info.info)
app.command("models")(models.models)
app.command("train")(train.train)
app.command("eval")(eval_command.evaluate)


def main() -> None:
    """Run the command; an error is one line on stderr and exit code 1, Ctrl-C is 130."""
    try:
        app()
    except CodecError as error:
        print(f"codec: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        print("codec: interrupted; nothing is half written", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Python would complain once more at exit.
        sys.stdout = None  # type: ignore[assignment]
        sys.exit(1)
