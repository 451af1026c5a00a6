"""Checkpoints: everything a resume needs, in one safetensors file, written whole or not at all.

Tensors are stored under their place in the tree, all other values as JSON in the file's metadata; nothing is executed
on load.

>>> tensors, skeleton = flatten({"a": [torch.ones(2), 3], 5: None})
>>> unflatten(tensors, skeleton)[5] is None, sorted(tensors)
(True, ['a/0'])
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codec.errors import TrainError
from codec.files import atomic_path

PATTERN = re.compile(r"step-(\d{8})\.safetensors$")


def save(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, tensors and JSON values.

    Raises:
        TrainError: it cannot be written, as on a full disk; an older file of the name stays.
    """
    tensors, skeleton = flatten(tree)
    with atomic_path(path, overwrite=True, error=TrainError) as temporary:
        try:
            save_file(tensors, temporary, metadata={"tree": json.dumps(skeleton)})
        except SafetensorError as error:  # what it makes of the system's errors
            raise TrainError(f"{path}: cannot be written ({error}); free some disk space and run again") from None


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote; tensors on the CPU.

    Raises:
        TrainError: not such a file, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dict
            skeleton = json.loads(file.metadata()["tree"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainError(
            f"{path}: not a checkpoint of this package, or damaged ({error}); delete it to go on"
        ) from None
    tree = unflatten(tensors, skeleton)
    assert isinstance(tree, dict)
    return tree


def find_latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run's folder."""
    found = sorted(folder.glob("step-*.safetensors"))
    return found[-1] if found else None


def save_latest(folder: Path, tree: dict[str, Any], *, step: int, keep: int) -> Path:
    """Write `step-XXXXXXXX.safetensors` and drop all but the newest `keep`."""
    path = folder / f"step-{step:08d}.safetensors"
    save(path, tree)
    for old in sorted(folder.glob("step-*.safetensors"))[: -max(1, keep)]:
        old.unlink()
    return path


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run had half written; call it only where no other run is at work in the folder."""
    for pattern in (".step-*.part", ".best.*.part", ".tmp??????"):  # the last one is safetensors' own
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def flatten(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a tree into named tensors and a JSON skeleton that says where they were."""
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, place: str) -> Any:
        if isinstance(node, Tensor):
            tensors[place] = node.detach().cpu().contiguous().clone()
            return {"$tensor": place}
        if isinstance(node, dict):
            return {"$dict": [[key, walk(value, f"{place}/{key}".lstrip("/"))] for key, value in node.items()]}
        if isinstance(node, (list, tuple)):
            return [walk(value, f"{place}/{i}".lstrip("/")) for i, value in enumerate(node)]
        return node

    skeleton = walk(tree, "")
    return tensors, skeleton


def unflatten(tensors: dict[str, Tensor], skeleton: Any) -> Any:
    """The tree back; tuples come back as lists."""
    if isinstance(skeleton, dict):
        if "$tensor" in skeleton:
            return tensors[skeleton["$tensor"]]
        return {key: unflatten(tensors, value) for key, value in skeleton["$dict"]}
    if isinstance(skeleton, list):
        return [unflatten(tensors, value) for value in skeleton]
    return skeleton


def to_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors in half precision, for shipping."""
    return {key: x.to(torch.float16) if x.is_floating_point() else x for key, x in state.items()}
