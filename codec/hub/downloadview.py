"""What a person sees of a download, on stderr: a line or two, and a progress bar where that is a terminal.

>>> with progress_bar(is_wanted=False) as step:
...     step("weights.safetensors", 10, 100)
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from codec.hub.cachefolder import TRUE
from codec.hub.fetch import Progress


def say(line: str) -> None:
    """One line to a person."""
    if sys.stderr is not None:  # pythonw on Windows has none
        sys.stderr.write(f"codec: {line}\n")
        sys.stderr.flush()


def is_bar_wanted() -> bool:
    """Whether stderr is a terminal and `HF_HUB_DISABLE_PROGRESS_BARS` is not set."""
    disabled = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").lower() in TRUE
    return sys.stderr is not None and sys.stderr.isatty() and not disabled


@contextlib.contextmanager
def progress_bar(*, is_wanted: bool | None = None) -> Iterator[Progress]:
    """A function to call as bytes come: name, bytes so far, bytes in all."""
    if not (is_bar_wanted() if is_wanted is None else is_wanted):
        yield lambda name, got, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        tasks = {}

        def step(name: str, got: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=got, total=total)

        yield step
