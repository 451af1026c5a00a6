"""`codec download`: bring models here before they are needed, or again."""

from __future__ import annotations

from typing import Annotated

import typer


def download(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="A known name, hf://org/repo@revision or https://...")
    ],
) -> None:
    """Download models. Of what is here, ask whether it has changed and mend what is damaged. Prints the folders."""
    from codec.hub import download as bring  # not for --help

    for name in names:
        typer.echo(bring(name))
