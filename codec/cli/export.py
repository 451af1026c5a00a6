"""`codec export`: a model folder's ONNX graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codec.errors import MissingExtraError


def export(
    model: Annotated[str, typer.Argument(help="An embedded model's name, or a model folder.")],
    folder: Annotated[Path, typer.Argument(help="Where the model with its graphs goes; made if missing.")],
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="Speech that sets the scales of the 8-bit graphs, 3 s of each file; else the golden clip."),
    ] = None,
) -> None:
    """Write a model's ONNX graphs beside a copy of its weights, and compare both engines on them."""
    try:
        from codec.export.runtime import export_model  # torch and onnx: not for --help
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "torch"):
            raise
        raise MissingExtraError(str(error.name), "export", need="the export to ONNX") from None
    agreement = export_model(model, folder, clips=calibrate or ())
    typer.echo(
        f"{folder}: codes agree on {agreement.codes:.4%} of {agreement.n_codes}, audio to {agreement.audio_db:.0f} dB"
    )
