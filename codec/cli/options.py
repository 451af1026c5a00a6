"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class EngineChoice(StrEnum):
    """What runs the model."""

    AUTO = "auto"
    ONNX = "onnx"
    ONNX_INT8 = "onnx-int8"
    TORCH = "torch"


ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A model's name, folder, hf://org/repo@revision or https://...")
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or mps.")]
EngineOption = Annotated[
    EngineChoice,
    typer.Option("--engine", help="onnx, onnx-int8 (fast streams), torch, or auto: onnx where the model ships graphs."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
SnrOption = Annotated[float | None, typer.Option(help="Mix noise in at so many dB; with --noise.")]
NoiseOption = Annotated[str, typer.Option(help="Folder of noise recordings; with --snr.")]
ReferenceOption = Annotated[str, typer.Option(help="With noise, judge against the noisy or the clean speech.")]
ManifestOption = Annotated[Path | None, typer.Option(help="CSV with a column path, for --by.")]
ByOption = Annotated[str, typer.Option(help="Column of the manifest: one more table per value.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


class ChannelsChoice(StrEnum):
    """What becomes of several channels."""

    MIX = "mix"
    KEEP = "keep"


class ModeChoice(StrEnum):
    """How many frames go through the network at once."""

    BLOCK = "block"
    FRAME = "frame"


def parse_bitrate(text: str | None) -> float | None:
    """`2000`, `2k` or `2kbps` to bits per second.

    >>> parse_bitrate("2k"), parse_bitrate("1500")
    (2000.0, 1500.0)

    Raises:
        typer.BadParameter: not a bitrate.
    """
    if text is None:
        return None
    number = text.lower().removesuffix("bps").removesuffix("bit/s").strip()
    factor = 1000.0 if number.endswith("k") else 1.0
    try:
        value = float(number.removesuffix("k")) * factor
    except ValueError:
        raise typer.BadParameter(f"--bitrate {text}: not a bitrate; write 2000 or 2k") from None
    if not 0 < value < 1e9:
        raise typer.BadParameter(f"--bitrate {text}: not a bitrate; write 2000 or 2k")
    if value < 100:
        raise typer.BadParameter(f"--bitrate {text}: {value:g} bits per second; for kilobits write {text}k")
    return value
