"""`codec export`: a model folder's ONNX graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codec.errors import MissingExtraError
from codec.hub import find_model
from codec.modelfolder import read_model


def export(
    model: Annotated[str, typer.Argument(help="An embedded model's name, or a model folder.")],
    folder: Annotated[Path, typer.Argument(help="Where the model with its graphs goes; made if missing.")],
    int8: Annotated[bool, typer.Option("--int8", help="Graphs with 8-bit products too.")] = False,
    opset: Annotated[
        int | None,
        typer.Option(help="Version of ONNX's operators, for older or newer runtimes.", show_default="20 of 17 to 26"),
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(help="Speech to compare the engines on, a minute of it; else the model's golden clip."),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="Speech that sets the scales of the 8-bit graphs, 3 s of each file; else the golden clip."),
    ] = None,
) -> None:
    """Write a model's ONNX graphs beside a copy of its weights. They are first proved to do what torch does."""
    if calibrate and not int8:
        raise typer.BadParameter("sets the scales of the 8-bit graphs; add --int8", param_hint="--calibrate")
    try:
        from codec.export.builder import OPSET  # torch and onnx: not for --help
        from codec.export.runtime import Agreement, export_model
        from codec.export.speech import read_speech
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "torch"):
            raise
        raise MissingExtraError(str(error.name), "export", need="the export to ONNX") from None
    source = read_model(find_model(model))
    speech = read_speech(source.info, audio or (), source.path)
    done = export_model(model, folder, speech, clips=calibrate or (), int8=int8, opset=opset or OPSET)

    def tell(what: str, found: Agreement) -> None:
        agree = f"codes agree on {found.codes:.4%} of {found.n_codes}, audio to {found.audio_db:.0f} dB"
        typer.echo(f"{folder}: {what}: {agree}")

    typer.echo(f"{folder}: compared on {done.speech}")
    tell("torch and onnx", done.agreement)
    if done.int8 is not None:
        tell("onnx and onnx-int8", done.int8)
