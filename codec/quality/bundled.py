"""Weights inside other installed packages, found without importing those and known by their SHA-256."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from codec.errors import MissingExtraError, ModelError


def file_of_package(package: str, name: str, hash_: str, *, need: str, alone: bool = False) -> Path:
    """Return a file inside an installed package, without importing it, after its SHA-256 proved right.

    Args:
        package: import name.
        name: path inside the package's folder.
        hash_: expected SHA-256, hex.
        need: what asks for it, for the error.
        alone: the package is to be installed without those that it asks for.

    Raises:
        MissingExtraError: the package is not installed.
        ModelError: the file is missing or another one.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(package, "eval-full", need=need, alone=alone)
    path = Path(next(iter(spec.submodule_search_locations))) / name
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as failure:
        raise ModelError(f"{path}: cannot be read ({failure}); install the package {package} again") from failure
    if found != hash_:
        raise ModelError(f"{path}: SHA-256 {found[:12]}..., not {hash_[:12]}...; install the release named in the docs")
    return path
