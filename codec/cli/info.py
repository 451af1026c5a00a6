"""`codec info`: what a .codes file says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from codec.errors import CodesFileError


def info(
    files: Annotated[list[Path], typer.Argument(help=".codes files.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the prior of packed codes lies.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print what .codes files say of themselves. Every block is checked."""
    code = 0
    for path in files:
        try:
            facts = describe(path, model)
        except CodesFileError as error:
            typer.echo(f"codec: {error}", err=True)
            code = 1
            continue
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            typer.echo(str(path))
            for key, value in facts.items():
                if key != "file":
                    typer.echo(f"  {key:<15} {value}")
        code = code or (3 if facts["damage"] else 0)
    raise typer.Exit(code)


def describe(path: Path, model: str | None = None) -> dict[str, Any]:
    """The facts of one file. Raises: CodesFileError; ModelError where the prior that packs it is not here."""
    from codec import codesfile  # numpy: not for --help
    from codec.codesfile.condition import condition_of
    from codec.codesfile.counts import frame_bits
    from codec.files import describe_os_error
    from codec.hub import find_model

    priors = () if model is None else (find_model(model),)
    try:
        with path.open("rb") as file:
            reader = codesfile.Reader(file, name=str(path), partial=True, priors=priors)
            header, n_frames, bits = reader.header, 0, 0.0
            for block in reader.blocks():
                n_frames += block.shape[-1]
                if header.frame_codebooks:
                    bits += frame_bits(block, header.codebook_sizes, header.frame_codebooks)
    except OSError as error:
        raise CodesFileError(f"{path}: {describe_os_error(error)}") from None
    n_samples = n_frames * header.hop_length if reader.n_samples is None else reader.n_samples
    condition = condition_of(header.sections, header.channels)
    size = path.stat().st_size
    duration = n_samples / header.sample_rate
    return {
        "file": str(path),
        "model": header.model,
        "weights_hash": header.weights_hash,
        "mode": header.mode,
        "sample_rate": header.sample_rate,
        "frame_rate": header.frame_rate,
        "channels": header.channels,
        "codebooks": header.n_codebooks,
        "codebook_sizes": list(header.codebook_sizes),
        "bitrate": bits * header.frame_rate / n_frames if bits else header.bitrate,
        "frame_codebooks": list(header.frame_codebooks) or None,
        "frames": n_frames,
        "samples": n_samples,
        "duration": duration,
        "size_bytes": size,
        "prior": header.prior_id or None,
        "condition": None if condition is None else condition.shape[1],
        "sections": sorted(header.sections),
        "damage": list(reader.warnings),
    }
