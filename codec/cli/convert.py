"""`codec convert`: a published checkpoint to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codec.errors import MissingExtraError


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The checkpoint's file, or its folder.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The model folder to make.")],
    kind: Annotated[str, typer.Option("--from", help="What it is of: encodec, dac, snac, hificodec, hf and others.")],
    name: Annotated[str, typer.Option(help="The model's name; the folder's when empty.")] = "",
    graphs: Annotated[
        bool, typer.Option(help="Write ONNX graphs and golden vectors too, where there is a form.")
    ] = True,
) -> None:
    """Turn published weights into a model of this package. Nothing in the checkpoint is executed."""
    try:
        from codec.convert.run import convert as run  # torch: not for --help
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "torch", need="converting checkpoints") from None
    run(source, target, kind, typer.echo, name=name, graphs=graphs)
