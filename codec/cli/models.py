"""`codec models`: the models at hand."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the models inside the package."""
    from codec.config import to_dict  # not for --help
    from codec.hub import find_model, list_models
    from codec.modelfolder import read_model

    for name in list_models():
        info = read_model(find_model(name)).info
        if as_json:
            typer.echo(json.dumps(to_dict(info)))
            continue
        rates = ", ".join(f"{info.bitrate_of(count) / 1000:g}" for count in info.prefixes)
        typer.echo(
            f"{name}: {info.sample_rate} Hz, {info.frame_rate:g} frames/s, up to {info.codebooks} codebooks of "
            f"{info.codebook_size}, {rates} kbit/s, latency {info.latency * 1000:g} ms, "
            f"{sum(info.parameters.values()) / 1e6:.1f} M parameters, {info.licence}, weights {info.weights_hash[:12]}"
        )
