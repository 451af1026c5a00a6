"""A trained network to a model folder: weights, in half precision unless it is to be exact, and model.json."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from codec.config import ModelConfig
from codec.engine.torch_engine import load_network
from codec.errors import ModelError
from codec.files import atomic_path
from codec.modelfolder import WEIGHTS, ModelFolder, read_facts, write_model
from codec.network import Network

MODEL_JSON = "model.json"


@contextlib.contextmanager
def room_beside(place: Path) -> Iterator[Path]:
    """A folder on the disk where a place is or will be, to make things in; it goes, with all that is still in it."""
    whole = place.absolute()
    there = next(folder for folder in (whole, *whole.parents) if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".codec-export-", dir=there) as room:
        yield Path(room)


def write_folder(
    path: Path,
    name: str,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    *,
    licence: str,
    half: bool = True,
    before: ModelFolder | None = None,
) -> ModelFolder:
    """Write a model folder, after it was loaded once as a check; all of it or nothing.

    Of an older model there only the card stays: graphs, golden vectors and prior are of other weights.

    Args:
        path: the folder, made if it is missing.
        name: of the model.
        config: of the network.
        weights: its state dict.
        licence: SPDX name of the weights' licence.
        half: store floats in half precision, half the size; else in float32.
        before: the model that learning began from. Where only the decoder is another now, its codes are known here.

    Raises:
        ModelError: weights that do not fit the configuration, or a folder with other things than a model.
    """
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / MODEL_JSON).is_file())):
        raise ModelError(f"{path}: something lies there that is no model; give a new folder")
    stale = read_facts(path)[1] if (path / MODEL_JSON).is_file() else {}
    kind = torch.float16 if half else torch.float32
    stored = {k: x.detach().cpu().to(kind) if x.is_floating_point() else x.cpu() for k, x in weights.items()}
    with room_beside(path) as room:
        with atomic_path(room / WEIGHTS, error=ModelError) as temporary:
            save_file({k: x.contiguous() for k, x in stored.items()}, temporary, metadata={"format": "pt"})
        info = Network(config).info(name, licence)
        if before is not None and _same_codes(before, config, stored):
            others = (*before.info.same_codes, before.info.weights_hash)
            info = dataclasses.replace(info, same_codes=others)
        folder = write_model(room, info, config)
        load_network(folder)
        path.mkdir(parents=True, exist_ok=True)
        for old in stale:
            (path / Path(old).name).unlink(missing_ok=True)
        for new in (WEIGHTS, MODEL_JSON):
            os.replace(room / new, path / new)
    return dataclasses.replace(folder, path=path)


def _same_codes(before: ModelFolder, config: ModelConfig, stored: Mapping[str, Tensor]) -> bool:
    """Whether a model's encoder and bottleneck are those of `config` and `stored`, to the bit."""
    if dataclasses.replace(before.config, decoder=config.decoder) != config:
        return False
    theirs = load_network(before).state_dict()
    kept = {key for key in {**theirs, **stored} if not key.startswith("decoder.")}
    return all(
        key in theirs and key in stored and torch.equal(theirs[key], stored[key].to(theirs[key].dtype)) for key in kept
    )
