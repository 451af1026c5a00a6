"""A trained network to a model folder: weights, in half precision unless it is to be exact, and model.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from codec.config import ModelConfig
from codec.engine.torch_engine import load_network
from codec.modelfolder import WEIGHTS, ModelFolder, write_model
from codec.network import Network


def write_folder(
    path: Path, name: str, config: ModelConfig, weights: Mapping[str, Tensor], *, licence: str, half: bool = True
) -> ModelFolder:
    """Write a model folder and load it once as a check.

    Args:
        path: the folder, made if it is missing.
        name: of the model.
        config: of the network.
        weights: its state dict.
        licence: SPDX name of the weights' licence.
        half: store floats in half precision, half the size; else in float32.

    Raises:
        ModelError: weights that do not fit the configuration.
    """
    path.mkdir(parents=True, exist_ok=True)
    kind = torch.float16 if half else torch.float32
    stored = {k: x.detach().cpu().to(kind) if x.is_floating_point() else x.cpu() for k, x in weights.items()}
    save_file({k: x.contiguous() for k, x in stored.items()}, path / WEIGHTS, metadata={"format": "pt"})
    folder = write_model(path, Network(config).info(name, licence), config)
    load_network(folder)
    return folder
