"""`codec train`: a recipe to a model; runs that travel; a run to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from codec.errors import MissingExtraError, ModelError
from codec.hub import find_model
from codec.modelfolder import ModelFolder, read_model


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe file, or the name of one of the package's own; with --pack, --unpack or --export a folder."
        ),
    ],
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            help="data=FOLDER run=FOLDER section.key=value ...; with --pack, --unpack or --export the folder to make."
        ),
    ] = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="RUN OUT: write weights and a slice of the speech of a run to one folder.")
    ] = False,
    unpack: Annotated[
        bool, typer.Option("--unpack", help="PACK RUN: make a run folder that goes on from a pack.")
    ] = False,
    export: Annotated[
        str, typer.Option("--export", metavar="NAME", help="RUN [OUT]: write a model folder of this name.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build and cost the recipe: parameters, rates, products, memory; no data.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: one JSON object, numbers only.")] = False,
    size: Annotated[str, typer.Option(help="Largest size of a pack.")] = "32MiB",
    data: Annotated[
        str, typer.Option(help="Speech for a pack, comma-separated; none leaves it out; else the run's.")
    ] = "",
) -> None:
    """Train a recipe. Run it again on the same run folder and it resumes."""
    words = list(overrides or ())
    if pack + unpack + bool(export) + dry_run > 1:
        raise typer.BadParameter("give one of --pack, --unpack, --export and --dry-run")
    if (pack or unpack) and len(words) != 1:
        raise typer.BadParameter("give two folders: --pack RUN OUT, --unpack PACK RUN")
    if export and len(words) > 1:
        raise typer.BadParameter("give a run and, if you like, a folder: --export NAME RUN [OUT]")
    if (data or size != "32MiB") and not pack:
        raise typer.BadParameter("--data and --size belong to --pack; speech to train on is data=FOLDER")
    try:
        if pack:
            _pack(Path(recipe), Path(words[0]), size, data)
        elif unpack:
            _unpack(Path(recipe), Path(words[0]))
        elif export:
            _export(export, Path(recipe), Path(words[0] if words else export))
        else:
            _train(recipe, words, dry_run=dry_run, as_json=as_json)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "librosa", "tensorboard"):
            raise
        raise MissingExtraError(str(error.name), "train", need="training") from None


def _train(recipe: str, overrides: list[str], *, dry_run: bool, as_json: bool) -> None:
    if dry_run or as_json:
        _dry_run(recipe, overrides, as_json=as_json, wanted=dry_run)
        return
    from codec.train.config import read_recipe  # torch: not for --help
    from codec.train.run import run

    run(read_recipe(recipe, overrides), _say)


def _dry_run(recipe: str, overrides: list[str], *, as_json: bool, wanted: bool) -> None:
    if not wanted:
        raise typer.BadParameter("--json belongs to --dry-run")
    import json

    from codec.train import dryrun
    from codec.train.config import read_recipe

    read = read_recipe(recipe, overrides)
    cost = dryrun.dry_run(read)
    _say(json.dumps(dryrun.as_dict(cost)) if as_json else dryrun.describe(cost, read))


def _pack(run: Path, out: Path, size: str, data: str) -> None:
    from codec.train.pack import pack, parse_size

    sources = None if not data else () if data == "none" else tuple(data.split(","))
    pack(run, out, size_bytes=parse_size(size), data=sources, say=_say)


def _unpack(source: Path, run: Path) -> None:
    from codec.train.pack import unpack

    unpack(source, run, say=_say)


def _export(name: str, run: Path, out: Path) -> None:
    from codec.export.folder import write_folder
    from codec.train.run import read_run, shipped_weights

    recipe, _ = read_run(run)
    weights, which = shipped_weights(run)
    write_folder(out, name, recipe.model, weights, licence=recipe.licence, before=_before(recipe.run.init))
    _say(f"{out}: model {name}, {which}")


def _before(init: str) -> ModelFolder | None:
    """The model that a run began from; None where there was none, or it is gone."""
    try:
        return read_model(find_model(init)) if init else None
    except ModelError:
        return None


def _say(line: str) -> None:
    typer.echo(line)
