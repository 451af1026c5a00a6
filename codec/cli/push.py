"""`codec push`: a model to a folder or a repository of the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from codec.errors import MissingExtraError


def push(
    model: Annotated[str, typer.Argument(help="An embedded model's name, or a model folder.")],
    repo: Annotated[str | None, typer.Argument(metavar="ORG/REPO", help="Where to; made if missing.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write the folder here, upload nothing.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make and check the folder, upload nothing.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Make a model ready for the Hugging Face hub and upload it. Weights, config, ONNX graphs and card."""
    if (repo is None) == (to is None) and not dry_run:
        raise typer.BadParameter("give ORG/REPO to upload, or --to DIR to write the folder")
    from codec.hub.publish import upload  # not for --help
    from codec.modelfolder import read_facts

    with tempfile.TemporaryDirectory(prefix="codec-push-") as room:
        target = to or Path(room) / "model"
        for name in make_folder(model, target, Path(room) / "exported"):
            typer.echo(f"{name}  {(target / name).stat().st_size} bytes")
        if dry_run or repo is None:
            typer.echo(f"{to or 'checked'}: ready for the hub; nothing was uploaded")
            return
        commit = upload(target, repo, private=private, message=f"Model {read_facts(target)[0].info.name}")
        typer.echo(f"hf://{repo}@{commit}")


def make_folder(model: str, target: Path, room: Path) -> list[str]:
    """Write the folder, with graphs made in `room` where the model has none. Raises: ModelError; MissingExtraError."""
    from codec.hub import find_model
    from codec.hub.publish import write_hub_folder
    from codec.modelfolder import read_model

    folder = read_model(find_model(model))
    if not folder.has_graphs:
        try:
            from codec.export.runtime import export_model
        except ModuleNotFoundError as error:
            if error.name not in ("onnx", "torch"):
                raise
            raise MissingExtraError(str(error.name), "export", need="making the model's ONNX graphs") from None
        export_model(model, room)
        folder = read_model(room)
    return write_hub_folder(folder, target)
