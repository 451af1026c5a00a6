"""A trained network to a model folder: half-precision weights and model.json."""

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
    path: Path, name: str, config: ModelConfig, weights: Mapping[str, Tensor], *, licence: str
) -> ModelFolder:
    """Write a model folder and load it once as a check.

    Args:
        path: the folder, made if it is missing.
        name: of the model.
        config: of the network.
        weights: its state dict; floats are stored in half precision.
        licence: SPDX name of the weights' licence.

    Raises:
        ModelError: weights that do not fit the configuration.
    """
    path.mkdir(parents=True, exist_ok=True)
    half = {k: x.detach().cpu().to(torch.float16) if x.is_floating_point() else x.cpu() for k, x in weights.items()}
    save_file({k: x.contiguous() for k, x in half.items()}, path / WEIGHTS, metadata={"format": "pt"})
    folder = write_model(path, Network(config).info(name, licence), config)
    load_network(folder)
    return folder
