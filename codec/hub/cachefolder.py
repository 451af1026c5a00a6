"""The folder of downloaded models: where it is, and one process at a time.

    models/KEY/         a whole model, checked
    models/KEY.json     what was downloaded: from where, and the SHA-256 of each file at the first download
    models/NAME.part/   a download that was killed; the next one goes on there
    refs/NAME.json      a hub repository's revisions (`main`) and the commits that they meant
    locks/              empty files
    registry.json       names of the user's own, optional

>>> key_of("hf://org/repo"), key_of("hf://org--a/b"), key_of("hf://org/a--b")
('hf--org--repo', 'hf--org%2d%2da--b', 'hf--org--a%2d%2db')
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from codec.errors import ModelError
from codec.files import describe_os_error

APP = "neural-codec"
TRUE = ("1", "on", "yes", "true")  # as huggingface_hub reads its variables


def cache_home() -> Path:
    """`CODEC_HOME`, else `neural-codec` in the platform's folder for caches.

    Source: XDG Base Directory Specification 0.8 (Linux), Apple's File System Programming Guide (macOS).
    """
    own = os.environ.get("CODEC_HOME")
    if own:
        return Path(own).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / APP
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / APP / "Cache"
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: a path that is not absolute is to be ignored.
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / APP


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE


def key_of(text: str) -> str:
    """A source as a file name; what is not plain becomes its percent code, so that two sources never meet."""
    text = text.removeprefix("https://").replace("://", "/")
    # Two dashes will stand for a slash: those that are there already, or beside one, have a code too.
    coded = re.sub(r"(?<=[-/])-|-(?=[-/])|[^A-Za-z0-9._/-]", lambda match: f"%{ord(match[0]):02x}", text)
    return coded.replace("/", "--").lstrip(".")


def models_folder() -> Path:
    """Where the models lie."""
    return cache_home() / "models"


def downloaded() -> list[Path]:
    """The folders of the whole models that are here."""
    return sorted(path.parent for path in models_folder().glob("*/model.json") if path.parent.suffix != ".part")


@contextlib.contextmanager
def one_at_a_time(key: str, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a source; the system frees it when a process dies.

    Args:
        key: of the source.
        waiting: called once where another process holds it.

    Raises:
        ModelError: the cache folder cannot be written.
    """
    from filelock import FileLock, Timeout  # only downloads need it

    folder = cache_home() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        models_folder().mkdir(exist_ok=True)
        lock = FileLock(folder / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
    except OSError as failure:
        raise ModelError(
            f"{cache_home()}: the folder for downloads cannot be used: {describe_os_error(failure)}; "
            "set CODEC_HOME to another one"
        ) from None
    try:
        yield
    finally:
        lock.release()
