"""`codec train`: a recipe to a model."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from codec.errors import MissingExtraError


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one of the package's own.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="data=FOLDER run=FOLDER section.key=value ...")] = None,  # noqa: UP045
) -> None:
    """Train a recipe; run it again on the same run folder and it resumes."""
    try:
        from codec.train.config import read_recipe  # torch: not for --help
        from codec.train.run import run
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "librosa", "tensorboard"):
            raise
        raise MissingExtraError(str(error.name), "train", need="training") from None
    run(read_recipe(recipe, overrides or ()), lambda line: typer.echo(line))
