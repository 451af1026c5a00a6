"""Mix the weights of a model with those it came from: between what each of them does well.

    python -m codec.export.blend NEW OLD OUT [--share 0.4]

A decoder that an adversary taught sounds clearer and follows the wave less; two fifths of the weights from before bring
back more than two fifths of what was lost (docs/design.md, contrast). Only weights of one training may be mixed.
Source: Wortsman et al. 2022 (WiSE-FT), for classifiers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import load_file

from codec.ending import one_line
from codec.errors import ConfigError
from codec.export.folder import write_folder
from codec.hub import find_model
from codec.modelfolder import ModelFolder, read_model


def blend(new: Path, old: Path, out: Path, *, share: float) -> ModelFolder:
    """Write the model (1 - share) * new + share * old, in half precision, under the name of the new one.

    Raises:
        ConfigError: networks that differ, or a share that is none.
        ModelError: a folder that is no model, or `out` holds other things.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"--share: from 0 to 1, found {share}")
    mine, theirs = read_model(new), read_model(old)
    if mine.config != theirs.config:
        raise ConfigError(f"{new} and {old}: networks differ; mix weights of one configuration")
    a, b = (load_file(folder.weights_path) for folder in (mine, theirs))
    mixed = {key: a[key].float() * (1 - share) + b[key].float() * share for key in a}
    return write_folder(out, mine.info.name, mine.config, mixed, licence=mine.info.licence, before=theirs)


def main(
    new: Annotated[str, typer.Argument(help="The model after the last stage, a name or folder.")],
    old: Annotated[str, typer.Argument(help="The model that it began from.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    share: Annotated[float, typer.Option(help="Of the old weights.")] = 0.4,
) -> None:
    """Mix the weights of two models."""
    folder = blend(find_model(new), find_model(old), out, share=share)
    typer.echo(f"{out}: {folder.info.name}, weights {folder.info.weights_hash[:12]}")


if __name__ == "__main__":
    with one_line():
        typer.run(main)
